"""A verdict: whether a gate holds, in one line with numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.artifact import Record

if TYPE_CHECKING:
    from trtpipe.accuracy.reports import ParityReport
    from trtpipe.latency.reports import Latency, LatencyReport


class Verdict(Record):
    """The outcome of one gate.

    Attributes:
        gate: ``accuracy`` or ``latency``.
        passed: ``None`` where it could not be judged.
        summary: the figures in one line.
    """

    gate: str
    passed: bool | None
    summary: str


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
        return Verdict(gate="accuracy", passed=False, summary="; ".join(report.reasons) + where)
    if report.metrics:
        figures = ", ".join(f"{value.artifact} {value.value:.4f}" for value in report.metrics)
        return Verdict(
            gate="accuracy",
            passed=True,
            summary=f"{report.metrics[0].metric} on {report.metrics[0].samples or 'all'} samples: {figures}",
        )
    kind = "synthetic" if report.synthetic else "real"
    return Verdict(gate="accuracy", passed=True, summary=f"outputs agree on {report.samples} {kind} samples")


def latency_verdict(report: LatencyReport) -> Verdict:
    """The latency gate in one line; only a GPU's figures are judged, and only against a budget."""
    judged = report.max_p99 is not None and any(figure.on_gpu for figure in report.measurements)
    budget = f"; allowed is a p99 of {report.max_p99:.3g} ms" if judged else ""
    figures = "; ".join(_figures(each, alone=len(report.measurements) == 1) for each in report.measurements)
    return Verdict(gate="latency", passed=report.passed if judged else None, summary=figures + budget)


def _figures(figure: Latency, *, alone: bool) -> str:
    where = figure.runner if figure.on_gpu else f"{figure.runner}, not a GPU latency"
    name = figure.artifact if alone else f"{figure.artifact}, {figure.on}"
    unstable = "" if figure.stable else ", unstable"
    return f"{name} median {figure.median:.3g} ms, p99 {figure.p99:.3g} ms{unstable} ({where})"
