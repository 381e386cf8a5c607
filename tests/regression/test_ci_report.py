from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from trtpipe.regression.ci_report import junit, markdown
from trtpipe.regression.gate import CheckReport, Finding
from trtpipe.report.verdict import Gate, Verdict

VERDICT = Verdict(
    outcome="passed",
    exit_code=0,
    headline="PASSED on the lowered graph",
    scope="on the lowered graph",
    accuracy=Gate(outcome="passed", summary="top1 0.98"),
    latency=Gate(outcome="not judged", summary="not measured"),
)


def report(*statuses):
    findings = tuple(
        Finding(gate="accuracy", name=f"thing | {i}", status=status, message=f'a < b & "c"\n{status}\x00')
        for i, status in enumerate(statuses)
    )
    return CheckReport(baseline="b.json", build="out", verdict=VERDICT, findings=findings)


def test_junit_is_what_ci_systems_read():
    suite = ET.fromstring(junit(report("ok", "failed", "note", "skipped", "failed")))
    assert suite.attrib["tests"] == "5"
    assert suite.attrib["failures"] == "2"
    assert suite.attrib["skipped"] == "1"
    kinds = [[child.tag for child in case] for case in suite.iter("testcase")]
    assert kinds == [["system-out"], ["failure"], ["system-out"], ["skipped"], ["failure"]]
    assert 'a < b & "c"' in str(suite.findall("testcase")[1][0].text)


def test_markdown_has_one_row_a_finding_failures_first():
    lines = markdown(report("ok", "failed")).splitlines()
    assert lines[0] == "### trtpipe check: **Regression**"
    rows = [line for line in lines if line.startswith("| thing")]
    assert ["**FAILED**" in row for row in rows] == [True, False]
    assert all(row.count(" | ") == 2 for row in rows)
    assert "No regression" in markdown(report("ok", "note", "skipped"))


HOSTILE = [
    "![x](https://evil.example/a.png)",
    "[click](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt; &#64;team",
    "@someone look",
    "see www.evil.example now",
    "https://evil.example/",
    "closes #12, GH-13 and PROJ-14",
    "commit 0123456789abcdef0123456789abcdef01234567",
    "*bold* _it_ ~~gone~~ `code` ``more``",
    "``` fence",
    "a | b \\| c \\",
    "# heading\n\n- list\n\n| new | table |",
    "\u202egnp.exe\u2066 \u200b\ufeff",
    "\x1b[31m\x07\x00\x7f\x9b",
    "lone \ud800 surrogate \udcff",
    "\u2028 \u2029 \u0085",
    ":bomb:",
]


def texts(hostile):
    finding = Finding(gate="accuracy", name="thing", status="failed", message="x").model_copy(
        update={"name": hostile, "message": hostile}
    )
    return CheckReport(baseline="b", build="o", verdict=VERDICT, findings=()).model_copy(
        update={"baseline": hostile, "build": hostile, "findings": (finding,)}
    )


@pytest.mark.parametrize("hostile", HOSTILE)
def test_markdown_holds_names_as_nothing_but_text(hostile):
    text = markdown(texts(hostile))
    text.encode("utf-8")
    assert len(text.splitlines()) == 7
    assert all(c.isprintable() or c == "\n" for c in text)
    row = text.splitlines()[-1]
    assert row.count("|") == 4
    # what is left outside of code spans is plain words
    outside = re.sub(r"(`+) (?:(?!\1).)* \1(?!`)", "", text.partition("\n\n")[2])
    outside = (
        outside.replace("| check | verdict | details |", "").replace("|---|---|---|", "").replace("**FAILED**", "")
    )
    assert not set(outside) & set("`[]<>@#*_~!&\\"), outside
    assert not re.search(r"//|www|GH-|[0-9a-f]{7}", outside)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_junit_holds_names_as_nothing_but_text(hostile):
    text = junit(texts(hostile))
    text.encode("utf-8")
    suite = ET.fromstring(text)
    case = suite.findall("testcase")[0]
    properties = [each.attrib["value"] for each in suite.iter("property")]
    for value in (case.attrib["name"], case[0].attrib["message"], case[0].text or "", *properties):
        assert value.isprintable()
        assert not re.search(r"://|@\w|\]\(|www\.", value)


def test_what_is_plain_stays_readable():
    plain = "top1 of lowered: 0.9800, was 0.9833 (p = 0.12); -0.3 % at most 0.5 %"
    assert f"| {plain} |" in markdown(texts(plain))
    assert ET.fromstring(junit(texts(plain))).findall("testcase")[0][0].text == plain
