"""The public functions of accuracy: judging again, comparing builds, and finding what may stay in 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.accuracy.reports import ParityReport
from trtpipe.errors import InputError
from trtpipe.oserrors import translate_os_errors
from trtpipe.publish import check_writable
from trtpipe.runs import BuildResult

if TYPE_CHECKING:
    from trtpipe.artifact import Record
    from trtpipe.profile import DeploymentProfile, Precision

PARITY, OUTPUTS = "parity.json", "outputs.json"


def rejudge(parity: Path, profile: DeploymentProfile, out: Path | None = None) -> BuildResult:
    """Apply other tolerances to a verification without running anything: the outputs it kept are compared again.

    Args:
        parity: a ``parity.json`` (or its folder), with the ``outputs.json`` beside it.
        profile: its tolerances and accuracy gate; the precision is the report's own.
        out: where the new report goes; a folder or a file.

    Returns:
        The new report, and no steps.

    Raises:
        InputError: one of the files is missing or damaged, or they do not belong together.
    """
    from trtpipe.accuracy.judging import judged
    from trtpipe.accuracy.recording import load_outputs, replay
    from trtpipe.shapes import check_outputs

    path = parity / PARITY if parity.is_dir() else parity
    report = ParityReport.read(path)
    saved = load_outputs(path.with_name(OUTPUTS))
    labels = [report.reference, *(comparison.artifact for comparison in report.comparisons)]
    if list(saved) != labels:
        raise InputError(
            f"{path.with_name(OUTPUTS)}: holds outputs of {', '.join(saved) or 'nothing'}, the report is on "
            f"{', '.join(labels)}",
            "verify again",
        )
    check_outputs(next(iter(saved.values()))[0], profile.tolerance)
    precisions: dict[str, Precision] = {
        label: report.precision for label in labels if label.startswith(("lowered", "engine"))
    }
    run = replay(saved, precisions, {link.artifact: link.against for link in report.links}, profile.tolerance)
    runners = {comparison.artifact: comparison.runner for comparison in report.comparisons}
    again = report.model_copy(
        update={
            "feeds": run.feeds,
            "samples": round(report.samples * run.feeds / report.feeds),
            "comparisons": tuple(c.model_copy(update={"runner": runners[c.artifact]}) for c in run.comparisons),
            "links": tuple(c.model_copy(update={"runner": runners[c.artifact]}) for c in run.links),
            "max_drop": profile.accuracy.max_drop if report.metrics else None,
        }
    )
    again = judged(again)
    where = None if out is None else write_record(again, out, PARITY)
    return BuildResult(steps=(), out=where, parity=again)


def write_record(record: Record, out: Path, name: str) -> Path:
    """Write ``record`` to ``out``: a file if it ends in .json, else a folder."""
    target = out if out.suffix == ".json" and not out.is_dir() else out / name
    check_writable(target.parent)
    with translate_os_errors(target, f"write {target}", elsewhere="choose another output with -o"):
        target.parent.mkdir(parents=True, exist_ok=True)
        record.write(target)
    return target
