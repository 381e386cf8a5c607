"""What results say of themselves at the prompt and in a notebook."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

import trtpipe
from trtpipe.pipeline.executor import Step
from trtpipe.report.manifest import Manifest
from trtpipe.summary import Summarized, Summary

if TYPE_CHECKING:
    from pathlib import Path


class Hostile(Summarized):
    @property
    def summary(self) -> Summary:
        return Summary("a <b>\x1b[2J\nx", ("<i>", "n"), tuple((f"<script>{n}", str(n)) for n in range(50)))


def test_one_line_at_the_prompt() -> None:
    assert repr(Hostile()) == str(Hostile()) == r"<Hostile: a <b>\x1b[2J\nx>"


def test_a_table_in_a_notebook_with_every_text_escaped() -> None:
    page = Hostile()._repr_html_()
    assert page.count("<tr>") == 1 + 40
    assert "10 more" in page
    assert {tag.strip("</>") for tag in re.findall(r"</?\w+>", page)} == {
        "p", "b", "table", "thead", "tbody", "tr", "td", "th"
    }  # fmt: skip
    assert "&lt;script&gt;0" in page


def test_an_empty_one_has_no_table() -> None:
    class Empty(Summarized):
        summary = Summary("nothing")

    assert "<table>" not in Empty()._repr_html_()


SUMMARIZED = [
    name
    for name in trtpipe.__all__
    if isinstance(getattr(trtpipe, name), type) and issubclass(getattr(trtpipe, name), Summarized)
]


def test_results_of_public_functions_have_one() -> None:
    assert {"BuildResult", "TuneResult", "Sensitivity", "CheckReport", "BuildDiff", "MatrixReport", "PackageResult",
            "SelfTest", "VerifiedPackage", "Inspection", "Diagnosis", "UpgradeReport"} <= set(SUMMARIZED)  # fmt: skip


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda build, out: trtpipe.inspect(build), ["manifest"]),
        (lambda build, out: trtpipe.inspect(build / "lowered.onnx"), ["lowered.onnx", "float32["]),
        (lambda build, out: trtpipe.diff(build, build), ["no setting differ"]),
        (lambda build, out: trtpipe.diagnose(), [trtpipe.__version__, "ready"]),
        (
            lambda build, out: trtpipe.ParityReport.read(build / "parity.json"),
            ["artifacts agree with", "SNR dB", "lowered"],
        ),
        (lambda build, out: Manifest.read(build / "manifest.json").verdict, ["PASSED", "engine not executed"]),
        (
            lambda build, out: Step("lower", "built", "changed: settings.keep"),
            ["lower: built (changed: settings.keep)"],
        ),
        (trtpipe.make_package, ["net", "package"]),
        (
            lambda build, out: trtpipe.verify_package(trtpipe.make_package(build, out).out),
            ["not signed", "lowered.onnx"],
        ),
        (
            lambda build, out: trtpipe.selftest_package(trtpipe.make_package(build, out).out, "cpu"),
            ["PASSED", "cosine"],
        ),
    ],
    ids=["bundle", "graph", "diff", "doctor", "parity", "verdict", "step", "package", "verified", "selftest"],
)
def test_they_say_what_matters(build: Path, tmp_path: Path, call: object, words: list[str]) -> None:
    found = call(build, tmp_path / "package")  # type: ignore[operator]
    line, page = repr(found), found._repr_html_()
    assert "\n" not in line
    assert len(line) < 400
    for word in words:
        assert word in line or word in page, (word, line, page)
