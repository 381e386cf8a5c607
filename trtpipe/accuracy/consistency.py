"""Is a record of measurements what a verification could have written? Nothing else is taken for a good result."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from trtpipe.accuracy.alignment import ROUNDING
from trtpipe.accuracy.verdict import with_verdict
from trtpipe.config.metrics import METRICS
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from trtpipe.accuracy.meter import Scores
    from trtpipe.accuracy.reports import Comparison, MetricValue, OutputParity, ParityReport

#: The metrics of trtpipe's own -> the kind of the scores of single samples.
_KINDS = {"top1": "hits", "top5": "hits", "map": "means", "cosine": "means", "wer": "ratio"}
#: Scores are kept in float32.
_ROUNDING = 1e-6
#: dB by which figures that are sums over many elements may be off.
_MARGIN_DB = 1.0
#: A root mean square is larger than the mean magnitude, and hardly more often than this.
_PEAKED = 100.0


def require_consistent(
    where: str, metrics: Sequence[MetricValue], comparisons: Sequence[Comparison], evaluation: str, samples: int
) -> None:
    """Raise InputError, naming the field, unless the figures fit each other.

    Args:
        where: the file, for messages.
        evaluation: the metric, and the output it reads, in words; empty where there is no metric.
    """
    for field, problem in (
        *_of_samples(samples),
        *_of_comparisons(comparisons),
        *_of_metrics(metrics, comparisons, evaluation),
    ):
        raise InputError(
            f"{where}: {field}: {problem}",
            "use the file as trtpipe wrote it, or make it again: no figure is taken from an edited one",
        )


def require_report(where: str, report: ParityReport) -> None:
    """Raise InputError, naming the field, unless a verification could have written this report."""
    require_consistent(where, report.metrics, report.comparisons, report.evaluation, report.samples)
    again = with_verdict(report)
    stated = report.reasons[: len(again.reasons)]  # layers that were kept without success may follow
    if (again.passed, again.reasons) != (report.passed, stated) or (report.passed and report.reasons):
        raise InputError(
            f"{where}: passed: the verdict does not follow from the figures",
            "verify again; a report is not edited by hand",
        )


def _of_samples(samples: int) -> Iterator[tuple[str, str]]:
    if samples < 1:
        yield "samples", f"{samples} are none"


def _of_comparisons(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, str]]:
    if not comparisons:
        yield "comparisons", "there are none"
    yield from _twice("comparisons", (each.artifact for each in comparisons))
    for comparison in comparisons:
        if not comparison.outputs:
            yield f"comparisons: {comparison.artifact}", "no output was compared"
        yield from _twice(f"comparisons: {comparison.artifact}", (each.output for each in comparison.outputs))
        for output in comparison.outputs:
            for field, problem in _of_output(output):
                yield f"comparisons: {comparison.artifact}: output {output.output!r}: {field}", problem


def _of_output(output: OutputParity) -> Iterator[tuple[str, str]]:
    shares = (
        ("agreement", output.agreement),
        ("top1_agreement", output.top1_agreement),
        ("top5_agreement", output.top5_agreement),
    )
    for field, share in shares:
        if share is not None and not 0 <= share <= 1:
            yield field, f"{share} is no share"
    if output.cosine is not None and not (math.isnan(output.cosine) or abs(output.cosine) <= 1 + _ROUNDING):
        yield "cosine", f"{output.cosine} is no cosine"
    sizes = (("max_abs", output.max_abs), ("mean_abs", output.mean_abs), ("spread", output.spread))
    for field, size in sizes:
        if size < 0:
            yield field, "is negative"
    if output.mean_abs > output.max_abs * (1 + _ROUNDING):
        yield "mean_abs", f"{output.mean_abs:g} is more than the largest difference, {output.max_abs:g}"
    if output.passed == bool(output.broken):
        yield "passed", "contradicts the limits that are broken"
    if output.passed:
        yield from _below_limits(output)
    if output.agreement is None and not output.snr_db <= (most := _most_snr_db(output)) and not math.isnan(most):
        yield "snr_db", f"{output.snr_db:g} dB, but the other figures allow {most:.1f} dB at most"


def _below_limits(output: OutputParity) -> Iterator[tuple[str, str]]:
    """Figures below the limits in force, of an output that passed; what is no more than rounding passes anyway."""
    limits = output.tolerance
    if output.agreement is not None:
        figures = [("agreement", output.agreement, limits.min_agreement)]
    elif output.mean_abs <= ROUNDING * _PEAKED * output.scale:
        return
    else:
        figures = [("cosine", output.cosine or 0.0, limits.min_cosine), ("snr_db", output.snr_db, limits.min_snr_db)]
    for field, figure, least in figures:
        if least is not None and not figure >= least:
            yield field, f"{figure:g} is below the limit, {least:g}, and the output passed"


def _most_snr_db(output: OutputParity) -> float:
    """The largest SNR that the other figures allow; NaN where they say nothing.

    Of a signal with the root mean square ``spread``: its noise has at least the power ``mean_abs²``, and with a cosine
    ``c`` at least the share ``1 - c²`` of the signal's, or half of it: of two samples, whose mean is their own, the SNR
    has twice the power that the cosine has. There is no such least value: a part of an output may be
    noisier than the whole.
    """
    if not output.max_abs:
        return math.nan
    shares = [0.0]
    if output.about_mean and output.spread > ROUNDING * output.scale:
        shares.append((output.mean_abs / output.spread) ** 2)
    if output.cosine is not None and output.cosine > 0:
        shares.append((1 - output.cosine**2) / 2)
    share = max(shares)
    if not share > ROUNDING:  # the figures themselves are rounded
        return sys.float_info.max  # finite, as there is a difference
    return _MARGIN_DB - 10 * math.log10(share)


def _of_metrics(
    metrics: Sequence[MetricValue], comparisons: Sequence[Comparison], evaluation: str
) -> Iterator[tuple[str, str]]:
    if bool(metrics) != bool(evaluation):
        yield "metrics", f"the metric is {evaluation or 'none'}, and there are {len(metrics)} values of it"
    yield from _twice("metrics", (value.artifact for value in metrics))
    known = {each.artifact for each in comparisons} | {each.against for each in comparisons}
    if metrics and (odd := known ^ {value.artifact for value in metrics}):
        yield "metrics", f"not of the artifacts that were compared: {', '.join(sorted(odd))}"
    name = evaluation.partition(" of ")[0]
    for value in metrics:
        place = f"metrics: {value.artifact}"
        if name in METRICS and value.metric != name:
            yield f"{place}: metric", f"{value.metric}, but {name} was measured"
        if value.metric != metrics[0].metric or value.lower_is_better != metrics[0].lower_is_better:
            yield f"{place}: metric", "not the same for all artifacts"
        for field, problem in _of_value(value):
            yield f"{place}: {field}", problem


def _of_value(value: MetricValue) -> Iterator[tuple[str, str]]:
    low, high = METRICS.get(value.metric, (-math.inf, math.inf))
    if wrong := _wrong_chance(value, low, high):
        yield "chance", wrong
    kind = _KINDS.get(value.metric, "")
    if kind and value.lower_is_better != (value.metric == "wer"):
        yield "lower_is_better", f"wrong for {value.metric}"
    if not low - _ROUNDING <= value.value <= high + _ROUNDING:
        yield "value", f"{value.value} cannot be a value of {value.metric}"
    if value.samples < (1 if kind else 0):
        yield "samples", f"{value.samples} samples have no {value.metric}"
    if value.scores is None:
        if kind:
            yield "scores", "missing"
        return
    try:
        yield from _of_scores(value, value.scores, kind)
    except InputError as error:
        yield "scores", error.message


def _wrong_chance(value: MetricValue, low: float, high: float) -> str:
    if value.chance is None or low <= value.chance <= high:
        return ""
    return f"{value.chance} cannot be what guessing gives of {value.metric}"


def _of_scores(value: MetricValue, scores: Scores, kind: str) -> Iterator[tuple[str, str]]:
    """Raise InputError where they are damaged."""
    parts, weights = scores.arrays()
    if scores.samples != value.samples:
        yield "samples", f"{value.samples}, with the scores of {scores.samples}"
    if kind and scores.kind != kind:
        yield "scores", f"of kind {scores.kind}, which those of {value.metric} are not"
    if scores.kind == "hits" and not ((parts == 0) | (parts == 1)).all():
        yield "scores", "hits other than 0 and 1"
    if (weights < 0).any():
        yield "scores", "a weight is negative"
    if scores.whole is not None and kind and value.metric != "map":
        yield "scores", f"{value.metric} is the mean of its scores, and has no value of its own"
    if abs(scores.value - value.value) > _ROUNDING * max(1.0, abs(value.value)):
        yield "value", f"{value.value:g}, but the scores of the samples give {scores.value:g}"


def _twice(field: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield field, f"{name} is there twice"
        seen.add(name)
