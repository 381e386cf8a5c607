"""The result of ``check`` as JUnit XML, and as Markdown for a pull request."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from trtpipe.regression.gate import CheckReport

_SIGNS = {"ok": "passed", "failed": "**FAILED**", "note": "note", "skipped": "not compared"}


def junit(report: CheckReport) -> str:
    """JUnit XML: one test case for each finding."""
    failed = sum(finding.status == "failed" for finding in report.findings)
    skipped = sum(finding.status == "skipped" for finding in report.findings)
    suite = ET.Element(
        "testsuite", name="trtpipe check", tests=str(len(report.findings)), failures=str(failed), skipped=str(skipped)
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in (("verdict", report.headline), ("build", report.verdict.headline)):
        ET.SubElement(properties, "property", name=name, value=_printable(value))
    for finding in report.findings:
        case = ET.SubElement(suite, "testcase", classname=f"trtpipe.{finding.gate}", name=_printable(finding.name))
        message = _printable(finding.message)
        if finding.status == "failed":
            ET.SubElement(case, "failure", message=message).text = message
        elif finding.status == "skipped":
            ET.SubElement(case, "skipped", message=message)
        else:
            ET.SubElement(case, "system-out").text = message
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def markdown(report: CheckReport) -> str:
    """A table for a pull request, failures first."""
    head = "No regression" if report.passed else "**Regression**"
    lines = [f"### trtpipe check: {head}", "", _cell(report.headline), ""]
    lines += ["| check | verdict | details |", "|---|---|---|"]
    order = ("failed", "note", "ok", "skipped")
    for finding in sorted(report.findings, key=lambda each: order.index(each.status)):
        cells = (finding.name, _SIGNS[finding.status], finding.message)
        lines.append("| " + " | ".join(_cell(text) for text in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _printable(text: str) -> str:
    """Without characters that XML cannot hold."""
    return "".join(c if c >= " " and c not in "\ufffe\uffff" else " " for c in text)
