"""The verdict on a parity report: which comparisons count, the reasons of a failure, and the first failing stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trtpipe.accuracy.reports import Comparison, OutputParity, ParityReport

PYTORCH = "pytorch"


def with_verdict(report: ParityReport) -> ParityReport:
    """The report with its verdict and, where that is "failed", the reasons and the first failing stage.

    The gate holds every artifact against the reference, the exported model against PyTorch, and the task metric, which
    has to be better than guessing in the reference itself.
    """
    failed: dict[str, list[str]] = {}
    for comparison in (*report.pytorch, *report.comparisons):
        if comparison.against != PYTORCH or comparison.artifact == report.reference:
            for output in comparison.outputs:
                if not output.passed:
                    failed.setdefault(comparison.artifact, []).append(_difference(comparison, output))
    for artifact, reason in (*_overflows(report), *_drops(report), *_floors(report)):
        failed.setdefault(artifact, []).append(reason)
    reasons = (*_guesses(report), *(reason for found in failed.values() for reason in found))
    stage = _failing_stage(report, list(failed)) if failed else ""
    return report.model_copy(update={"reasons": reasons, "passed": not reasons, "failing_stage": stage})


def stage_of(artifact: str) -> str:
    """The stage that makes an artifact."""
    kind, _, target = artifact.partition(":")
    names = {"model": "export", "simplified": "simplify", "lowered": "lower", "engine": f"compile {target}"}
    return names.get(kind, kind)


def _difference(comparison: Comparison, output: OutputParity) -> str:
    where = f"feed {output.worst_feed}, element {list(output.worst_index)}"
    if output.agreement is not None:
        aside = "" if output.mean_abs + output.agreement > 1 - 1e-6 else ", the most common one in both aside"
        return (
            f"{comparison.artifact}: output {output.output!r} against {comparison.against}: exact match "
            f"{output.agreement:.2%} of values{aside}, limit {output.tolerance.min_agreement or 0:.2%} "
            f"(first difference: {where})"
        )
    limit = output.tolerance
    words = {
        "difference": f"mean {output.mean_abs:.3g}, max {output.max_abs:.3g} ({where})",
        "cosine": f"cosine {output.cosine or 0:.4f}, limit {limit.min_cosine or 0:g}",
        "snr": f"SNR {output.snr_db:.1f} dB, limit {limit.min_snr_db or 0:g} dB",
    }
    beside = f"the samples change it by {output.spread:.3g} rms" if output.about_mean else f"mean {output.scale:.3g}"
    found = [words[name] for name in output.broken if name in words] or [words["difference"]]
    return (
        f"{comparison.artifact}: output {output.output!r} differs from {comparison.against}: "
        f"{'; '.join(found)} ({beside})"
    )


def _overflows(report: ParityReport) -> Iterator[tuple[str, str]]:
    """Tensors of the lowered graph that exceed the 16-bit range."""
    if report.overflows:
        worst, count = report.overflows[0], len(report.overflows)
        counted = "1 tensor overflows" if count == 1 else f"{count} tensors overflow"
        yield (
            "lowered",
            f"lowered: {counted} in 16-bit storage; {worst.tensor!r} of node "
            f"{worst.node!r} reaches {worst.largest:.3g}",
        )


def _drops(report: ParityReport) -> Iterator[tuple[str, str]]:
    """Artifacts whose metric is worse than the reference's by more than the limit."""
    reference = next((value for value in report.metrics if value.artifact == report.reference), None)
    for value in report.metrics:
        if reference is not None and not value.loss(reference) <= (report.max_drop or 0.0) + 1e-12:
            side = "above" if value.lower_is_better else "below"
            yield (
                value.artifact,
                f"{value.artifact}: {value.metric} {value.value:.4f} is {value.loss(reference):.3g} {side} "
                f"{report.reference}'s {reference.value:.4f}; limit {report.max_drop}",
            )


def _guesses(report: ParityReport) -> Iterator[str]:
    """The reference's metric, where guessing gives as much: then equal values say nothing of the artifacts."""
    for value in report.metrics:
        if value.artifact == report.reference and value.guessed:
            yield (
                f"{value.artifact}: {value.metric} {value.value:.4f} on {value.samples} samples is no better than "
                f"guessing ({value.chance:.4g}): check the labels, the order of classes, and how inputs are prepared"
            )


def _floors(report: ParityReport) -> Iterator[tuple[str, str]]:
    """Artifacts whose metric is below a least value; an error's, above a largest."""
    for value in report.metrics:
        limit = report.min_metric.get(value.metric)
        if limit is not None and value.misses(limit):
            side = "above the largest" if value.lower_is_better else "below the least"
            yield value.artifact, f"{value.artifact}: {value.metric} {value.value:.4f} is {side} allowed, {limit:g}"


def _failing_stage(report: ParityReport, failed: Sequence[str]) -> str:
    """The stage of the first failing link of the chain; if every link passes, of the first artifact that failed."""
    chain = [c for c in report.pytorch if c.artifact == report.reference]
    linked = {comparison.artifact for comparison in report.links}
    chain += [c for c in report.comparisons if c.artifact not in linked]
    chain += report.links
    order = [report.reference, *(comparison.artifact for comparison in report.comparisons)]
    failing = [comparison.artifact for comparison in chain if not comparison.passed]
    return stage_of(min(failing or failed, key=order.index))
