"""``manifest.json``, the index of a bundle, with the verdict of every gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from trtpipe.artifact import FileEntry, Record
from trtpipe.calibration.data_summary import DataSummary
from trtpipe.config.formats import Precision
from trtpipe.passes.decisions import NodeDecision, WorkShare

if TYPE_CHECKING:
    from trtpipe.accuracy.reports import ParityReport
    from trtpipe.latency.reports import Latency, LatencyReport


class Verdict(Record):
    """The result of one gate.

    Attributes:
        gate: ``accuracy`` or ``latency``.
        passed: ``None`` if the gate was not evaluated.
        summary: the metrics in one line.
    """

    gate: str
    passed: bool | None
    summary: str


class ManifestEntry(Record):
    """One artifact of the bundle.

    Attributes:
        label: its name (``lowered``, ``engine:sm89``).
        digest: its content digest.
        key: digest of the key it was made under; empty for a file the user supplied.
        files: main file first.
    """

    label: str
    digest: str
    key: str
    files: tuple[FileEntry, ...]


class Manifest(Record):
    """The index of a bundle: its files, their source, the tools and settings that made them, and the verdicts.

    It holds no time and no path, so equal builds give equal manifests.

    Attributes:
        trtpipe: version of trtpipe.
        source: what the user named.
        precision, backend, targets: what was asked for.
        settings: the profile and the calibration settings in force.
        toolchain: name -> version of every tool used.
        calibration: summary of the calibration data; ``None`` where none was used.
        verdicts: one for every gate.
        nodes: the precision of every node, and why.
        work: for 8-bit precisions, the share of multiply-accumulates (MACs) in them.
        classes: names of the model's classes; empty where they are not known.
        notes: remarks of the stages.
    """

    schema_version: Literal[1] = 1
    trtpipe: str
    source: str
    precision: Precision
    backend: str
    targets: tuple[str, ...]
    settings: dict[str, Any]
    toolchain: dict[str, str]
    calibration: DataSummary | None
    artifacts: tuple[ManifestEntry, ...]
    verdicts: tuple[Verdict, ...]
    nodes: tuple[NodeDecision, ...] = ()
    work: WorkShare | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return all(verdict.passed is not False for verdict in self.verdicts)


def verdicts(parity: ParityReport | None, latency: LatencyReport | None) -> tuple[Verdict, ...]:
    """The verdicts of the gates that have a report."""
    return (
        *(() if parity is None else (accuracy_verdict(parity),)),
        *(() if latency is None else (latency_verdict(latency),)),
    )


def accuracy_verdict(report: ParityReport) -> Verdict:
    """The accuracy gate in one line."""
    if report.reasons:
        where = f"; first failing stage: {report.failing_stage}" if report.failing_stage else ""
        summary = "; ".join(report.reasons) + where
    elif report.metrics:
        values = ", ".join(f"{value.artifact} {value.value:.4f}" for value in report.metrics)
        summary = f"{report.metrics[0].metric} on {report.metrics[0].samples or 'all'} samples: {values}"
    else:
        kind = "synthetic" if report.synthetic else "real"
        summary = f"outputs within tolerance on {report.samples} {kind} samples"
    return Verdict(gate="accuracy", passed=not report.reasons, summary=summary)


def latency_verdict(report: LatencyReport) -> Verdict:
    """The latency gate in one line; it is evaluated on GPU latencies only, and only where there is a budget."""
    evaluated = report.max_p99 is not None and any(each.on_gpu for each in report.measurements)
    limit = f"; p99 limit {report.max_p99:.3g} ms" if evaluated else ""
    times = "; ".join(_times(each, alone=len(report.measurements) == 1) for each in report.measurements)
    return Verdict(gate="latency", passed=report.passed if evaluated else None, summary=times + limit)


def _times(measured: Latency, *, alone: bool) -> str:
    where = measured.runner if measured.on_gpu else f"{measured.runner}, not a GPU latency"
    name = measured.artifact if alone else f"{measured.artifact}, {measured.on}"
    unstable = "" if measured.stable else ", unstable"
    return f"{name} median {measured.median:.3g} ms, p99 {measured.p99:.3g} ms{unstable} ({where})"
