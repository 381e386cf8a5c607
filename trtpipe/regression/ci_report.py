"""The result of ``check`` as JUnit XML, and as Markdown for a pull request."""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from trtpipe.regression.gate import CheckReport

#: What may stand in a cell of Markdown as it is ...
_PLAIN = frozenset(string.ascii_letters + string.digits + " .,:;%+-/()'\"=?\u00a6")
#: ... unless a code host makes a link of it: addresses, digests of commits, keys of issues, symbols by name.
_LINKED = re.compile(r"//|\bwww\.|\b[0-9a-fA-F]{7,64}\b|\b[A-Z]{2,}-\d|:\w+:|(?<![\w.])%\w")
_BACKTICKS = re.compile("`+")
#: The character that makes an address, a mention or an image of what surrounds it.
_MARKUP = re.compile(r":(?=//)|@(?=\w)|(?<=\])\(|(?<=\bwww)\.")
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
        ET.SubElement(properties, "property", name=name, value=_attribute(value))
    for finding in report.findings:
        case = ET.SubElement(suite, "testcase", classname=f"trtpipe.{finding.gate}", name=_attribute(finding.name))
        message = _attribute(finding.message)
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
        cells = (_cell(finding.name), _SIGNS[finding.status], _cell(finding.message))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """``text`` as one cell of Markdown that holds nothing but text.

    Names of models, files and metrics are anybody's. What Markdown, HTML or a code host could make something of
    (markup, links, images, mentions, numbers of issues, digests of commits) becomes a code span, where they make
    nothing of it. A vertical bar would end the cell even there, so it is written as a broken one.
    """
    line = " ".join(_visible(text).split()).replace("|", "\u00a6")
    if set(line) <= _PLAIN and not _LINKED.search(line):
        return line
    fence = "`" * (1 + max(map(len, _BACKTICKS.findall(line)), default=0))
    return f"{fence} {line} {fence}"


def _attribute(text: str) -> str:
    """``text`` for XML, with what readers of JUnit that show Markdown would link written as an escape."""
    return _MARKUP.sub(lambda found: f"\\x{ord(found[0]):02x}", _visible(text))


def _visible(text: str) -> str:
    """Control and bidirectional characters, lone surrogates and other invisible ones as escapes."""
    return "".join(c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode() for c in text)
