"""The engine that a hand-over came back with, against a baseline."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtpipe.accuracy.reports import ParityReport
from trtpipe.artifact import FileEntry
from trtpipe.delivery.assembly import opened
from trtpipe.delivery.handover import LATENCY, PARITY, is_handover, taken_back
from trtpipe.delivery.reader import Package
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import InputError
from trtpipe.latency.reports import LatencyReport
from trtpipe.regression.baseline import require_sound
from trtpipe.regression.bundle import entries
from trtpipe.regression.gate import CheckReport, Finding
from trtpipe.report.verdict import Evidence, verdict_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trtpipe.delivery.record import Model
    from trtpipe.regression.baseline import Baseline
    from trtpipe.report.verdict import Verdict


def check_finished(folder: Path, baseline: Baseline, name: str, min_metric: Mapping[str, float | str]) -> CheckReport:
    """Its outputs within tolerance, its graph and its size; there are no labels there, so no task metric.

    Args:
        name: of the baseline's file, for messages.

    Raises:
        InputError: it is no hand-over, was not finished or was edited; the baseline is of another model or precision;
            or a least value is given for a metric.
    """
    package = Package.opened(folder)
    if not is_handover(package.names):
        raise InputError(f"{folder}: a package, and no build or finished hand-over", "give the folder of the build")
    if min_metric:
        raise InputError(f"{folder}: a hand-over measures no metric", "leave --min-metric out; check its build by that")
    with TemporaryDirectory(prefix="trtpipe-") as work:
        model = taken_back(package, opened(package, Path(work))).assembly.model
    _comparable(model, baseline, name)
    require_sound(baseline, name)
    (plan,) = model.plans
    label = f"engine:{plan.target}"
    executed = model.verdict.scope.startswith("on the engine")
    verdict = verdict_of(
        Evidence(
            parity=ParityReport.read(folder / PARITY) if executed else None,
            latency=LatencyReport.read(folder / LATENCY) if (folder / LATENCY).is_file() and executed else None,
            engines={label: EngineRecord.read(folder / f"{plan.file}.json")},
        )
    )
    findings = (*_accuracy(verdict, label), *_graph(folder, model, baseline), *_size(folder, model, baseline))
    return CheckReport(baseline=name, build=str(folder), verdict=verdict, findings=findings)


def _comparable(model: Model, baseline: Baseline, name: str) -> None:
    def tensors(values: object) -> list[tuple[object, ...]]:
        return [(each.name, each.dtype, each.shape) for each in values]  # type: ignore[attr-defined]

    if model.precision != baseline.precision:
        raise InputError(
            f"{name}: a baseline in {baseline.precision}, the hand-over is in {model.precision}", "give its own"
        )
    contract = baseline.contract
    if tensors((*model.inputs, *model.outputs)) != tensors((*contract.inputs, *contract.outputs)):
        raise InputError(
            f"{name}: a baseline of a model with other inputs or outputs", "give the baseline of this model"
        )


def _accuracy(verdict: Verdict, label: str) -> Iterator[Finding]:
    outcome = {"passed": "ok", "failed": "failed", "not judged": "skipped"}[verdict.accuracy.outcome]
    yield Finding.model_validate(
        {"gate": "accuracy", "name": f"outputs of {label}", "status": outcome, "message": verdict.accuracy.summary}
    )
    message = f"{verdict.latency.summary}; a baseline's times are compared where both builds run in turns"
    yield Finding(gate="latency", name="latency", status="skipped", message=message)


def _graph(folder: Path, model: Model, baseline: Baseline) -> Iterator[Finding]:
    """The lowered graph is the baseline's, or a note says that it is not."""
    known = entries(baseline.artifacts)["lowered"].files[0].sha256
    assert model.graph is not None
    if FileEntry.of(folder / model.graph.file).sha256 != known:
        yield Finding(gate="build", name="lowered graph", status="note", message="another one than the baseline's")


def _size(folder: Path, model: Model, baseline: Baseline) -> Iterator[Finding]:
    (plan,) = model.plans
    old, new = baseline.engines.get(plan.target), (folder / plan.file).stat().st_size
    if old is not None and old.flavor == plan.flavor:
        message = f"{old.size} -> {new} bytes"
        yield Finding(gate="size", name=plan.file, status="ok" if old.size == new else "note", message=message)
