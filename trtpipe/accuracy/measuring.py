"""One artifact's task metric by itself, where nothing is compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.accuracy.custom import evaluate, load_metric
from trtpipe.accuracy.metrics import make_meter
from trtpipe.accuracy.reports import MetricValue
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.accuracy.custom import Evaluation, Metric
    from trtpipe.artifact import Feed
    from trtpipe.backends.base import Runner
    from trtpipe.config.recipe import EvaluationSettings
    from trtpipe.data.dataset import Dataset


def measure_metric(
    label: str, runner: Runner, reference: Runner, settings: EvaluationSettings, dataset: Dataset | None
) -> MetricValue:
    """Run an artifact on the evaluation data.

    Args:
        reference: the float32 graph, for metrics that look at its outputs.
        dataset: the evaluation data; a function that evaluates by itself needs none.

    Raises:
        InputError: there is no labeled data, or the metric does not fit it; a function of the user's failed.
    """
    metric = load_metric(settings.metric) if settings.own else None
    if metric and metric.whole:
        return value_of(label, runner.device, evaluate(metric, runner.infer, settings.output), settings)
    meter = make_meter(settings)()
    if dataset is None:
        raise InputError(f"{settings.metric} needs evaluation data", "add --eval-data DATA")
    for sample in dataset:
        if sample.labels is None and meter.needs_labels:
            continue
        outputs = runner.infer(_wanted(runner, sample.feed))
        wanted = outputs if meter.needs_labels else reference.infer(_wanted(reference, sample.feed))
        meter.update(outputs, wanted, sample.labels)
    scores = meter.scores()
    if not scores.samples:
        raise InputError(
            f"{dataset.name}: no labels, so {settings.metric} cannot be measured",
            "add labels (--labels NAME for an .npz), or choose --metric cosine",
        )
    return MetricValue(
        artifact=label,
        runner=runner.device,
        metric=meter.metric,
        value=scores.value,
        samples=scores.samples,
        lower_is_better=meter.lower_is_better,
        scores=scores,
    )


def value_of(label: str, device: str, found: Evaluation, settings: EvaluationSettings) -> MetricValue:
    """What ``evaluate(run)`` of the user's said, as a metric."""
    return MetricValue(
        artifact=label,
        runner=device,
        metric=found.name,
        value=found.value,
        samples=found.samples,
        lower_is_better=settings.lower_is_better,
        scores=found.scores,
        others=found.others,
    )


def whole_metric(settings: EvaluationSettings | None) -> Metric | None:
    """The user's function, if it evaluates by itself."""
    metric = load_metric(settings.metric) if settings and settings.own else None
    return metric if metric and metric.whole else None


def _wanted(runner: Runner, feed: Feed) -> Feed:
    names = {spec.name for spec in runner.inputs}
    return {name: value for name, value in feed.items() if name in names}
