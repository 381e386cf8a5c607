from __future__ import annotations

from xml.etree import ElementTree as ET

from trtpipe.regression.ci_report import junit, markdown
from trtpipe.regression.gate import CheckReport, Finding


def report(*statuses):
    findings = tuple(
        Finding(gate="accuracy", name=f"thing | {i}", status=status, message=f'a < b & "c"\n{status}\x00')
        for i, status in enumerate(statuses)
    )
    return CheckReport(baseline="b.json", build="out", findings=findings)


def test_junit_is_what_ci_systems_read():
    suite = ET.fromstring(junit(report("ok", "failed", "note", "skipped", "failed")))
    assert suite.attrib["tests"] == "5"
    assert suite.attrib["failures"] == "2"
    assert suite.attrib["skipped"] == "1"
    kinds = [[child.tag for child in case] for case in suite]
    assert kinds == [["system-out"], ["failure"], ["system-out"], ["skipped"], ["failure"]]
    assert 'a < b & "c"' in str(suite[1][0].text)


def test_markdown_has_one_row_a_finding_failures_first():
    lines = markdown(report("ok", "failed")).splitlines()
    assert lines[0] == "### trtpipe check: **Regression**"
    rows = [line for line in lines if line.startswith("| thing")]
    assert ["**FAILED**" in row for row in rows] == [True, False]
    assert all(row.count(" | ") == 2 for row in rows)
    assert "No regression" in markdown(report("ok", "note", "skipped"))
