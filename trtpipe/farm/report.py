"""What became of a matrix: ``matrix.json``, and JUnit for CI."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal
from xml.etree import ElementTree as ET

from trtpipe.artifact import PublicRecord, Record
from trtpipe.config.units import printable
from trtpipe.farm.tasks import Figures, Offer, TaskError
from trtpipe.report.verdict import WORDS
from trtpipe.summary import Summarized, Summary

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The page of a matrix, beside its report.
PAGE = "matrix.html"
#: Exit codes from the worst to the best.
_WORST = (1, 2, 6, 5, 3, 4, 0)


class CellPart(Record):
    """One model of a cell.

    Attributes:
        figures: of its build; ``None`` where it failed.
        folder: where its bundle is, relative to the report; empty where none was written.
    """

    source: str
    figures: Figures | None = None
    error: TaskError | None = None
    folder: str = ""


class CellResult(Record):
    """What became of a cell.

    Attributes:
        state: ``passed``, ``failed`` (a gate), ``not judged``, or ``error``: it was not built.
        exit_code: of a build of it alone.
        size, weight_bytes, activation_bytes: of all its models together.
        problem: of the cell as a whole: its models are more than the budget.
        stages: how many were built for this cell or one that shares them, and how many were there.
        seconds: of all its tasks, also of those it shares.
    """

    name: str
    model: str
    recipe: str = ""
    precision: str
    target: str
    backend: str
    required: bool
    state: Literal["passed", "failed", "not judged", "error"]
    exit_code: int
    headline: str
    parts: tuple[CellPart, ...]
    size: int | None = None
    kernels: int | None = None
    weight_bytes: int | None = None
    activation_bytes: int | None = None
    problem: str = ""
    built: int = 0
    hits: int = 0
    seconds: float = 0.0

    @property
    def word(self) -> str:
        """``PASSED``, ``FAILED``, ``NOT JUDGED`` or ``ERROR``."""
        return "ERROR" if self.state == "error" else WORDS[self.state]


class MatrixReport(Summarized, PublicRecord):
    """``matrix.json``.

    Attributes:
        workers: who did it.
        built, hits: stages that were made, and that the store had, each counted once.
        repeated: how many times a worker died and its task began again.
        seconds: from start to end.
        exit_code: that of the worst cell that is required.
    """

    SCHEMA: ClassVar[int] = 1

    trtpipe: str
    workers: tuple[Offer, ...]
    cells: tuple[CellResult, ...]
    tasks: int
    built: int
    hits: int
    repeated: int
    seconds: float
    exit_code: int

    @property
    def summary(self) -> Summary:
        """The result, and every cell."""
        rows = tuple((cell.name, cell.word, cell.headline or cell.problem) for cell in self.cells)
        return Summary(self.headline, ("cell", "result", "verdict"), rows)

    @property
    def headline(self) -> str:
        """All of it in one line."""
        counts = {state: sum(cell.state == state for cell in self.cells) for state in ("passed", "failed", "error")}
        rest = len(self.cells) - sum(counts.values())
        word = "FAILED" if self.exit_code else "PASSED"
        return (
            f"{word} | {len(self.cells)} cells: {counts['passed']} passed, {counts['failed']} failed, "
            f"{rest} not judged, {counts['error']} not built | {self.built} stages built, {self.hits} from the store"
        )


def worst(codes: Iterable[int]) -> int:
    """The worst exit code; 0 of none."""
    return min(codes, key=lambda code: _WORST.index(code) if code in _WORST else 0, default=0)


def junit(report: MatrixReport) -> str:
    """JUnit XML: one test case for each cell; those that are not required and failed are skipped ones."""
    bad = [cell for cell in report.cells if cell.exit_code]
    suite = ET.Element(
        "testsuite",
        name="trtpipe matrix",
        tests=str(len(report.cells)),
        failures=str(sum(cell.required and cell.state != "error" for cell in bad)),
        errors=str(sum(cell.required and cell.state == "error" for cell in bad)),
        skipped=str(sum(not cell.required for cell in bad)),
        time=f"{report.seconds:.3f}",
    )
    for cell in report.cells:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"trtpipe.{printable(cell.model)}",
            name=printable(cell.name),
            time=f"{cell.seconds:.3f}",
        )
        message = printable(cell.headline)
        if not cell.exit_code:
            ET.SubElement(case, "system-out").text = message
        elif not cell.required:
            ET.SubElement(case, "skipped", message=message)
        else:
            kind = "error" if cell.state == "error" else "failure"
            ET.SubElement(case, kind, message=message, type=f"exit code {cell.exit_code}").text = message
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
