"""User-defined metrics: a function of one feed's outputs and labels, or one that runs the whole evaluation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from trtpipe.accuracy.meter import MOST_SAMPLES, Meter, Scores, concatenated
from trtpipe.accuracy.reports import MetricValue
from trtpipe.data.user_messages import PER_SAMPLE
from trtpipe.data.user_process import UserProcess
from trtpipe.digest import sha256_file, sha256_json
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtpipe.artifact import Feed, Observed
    from trtpipe.config.recipe import EvaluationSettings
    from trtpipe.isolation.worker import Limits

#: Entry of an evaluation's dictionary that holds the number of samples.
COUNT = "n"


class Metric(UserProcess):
    """A function of the user that measures, in a child process."""

    @property
    def whole(self) -> bool:
        """Whether it takes ``run`` and does the evaluation itself."""
        return self.needed == 1


def load_metric(source: str, limits: Limits | None = None) -> Metric:
    """The function that ``path/file.py:function`` or ``package.module:function`` names.

    With one parameter that has no default it is ``evaluate(run) -> dict``; with two, ``metric(outputs, labels)``.

    Args:
        limits: of its process (default: those of the environment).

    Raises:
        InputError: no such file, module or function, or it takes something else.
    """
    metric = Metric(source, limits, observe=True)
    if metric.needed not in (1, 2):
        raise InputError(
            f"{source} needs {metric.needed} arguments",
            "write evaluate(run) -> {'metric': number}, or metric(outputs, labels) -> one number a row",
        )
    return metric


def digest_of_code(observed: Observed) -> str:
    """What a metric is, for baselines of other machines: the names and contents of the files it read, its own among
    them.
    """
    return sha256_json(sorted([Path(path).name, sha256_file(Path(path))] for path in observed.files))


class CustomMeter(Meter):
    """``metric(outputs, labels)`` on every feed: one number a row, or one for the feed."""

    metric = ""
    lower_is_better = False

    def __init__(self, metric: Metric, *, lower_is_better: bool) -> None:
        self.metric = metric.label
        self.lower_is_better = lower_is_better
        self._function = metric
        self._values: list[np.ndarray] = []

    def update(self, outputs: Feed, wanted: Feed, labels: np.ndarray | None) -> None:
        rows = next((len(value) for value in (labels, *outputs.values()) if value is not None and value.ndim), 1)
        values = self._function.score(outputs, labels, max(rows, 1))
        if values.size not in (1, rows):
            _refuse(self._function, f"returned {values.size:,} scores for {rows:,} samples; one a row, or one in all")
        if not _is_finite(values):
            _refuse(self._function, "returned NaN, infinity or a number beyond 3e38")
        self._values.append(values)

    def scores(self) -> Scores:
        """The function's value for every row (or feed)."""
        return Scores.of("means", concatenated(self._values))


def evaluate(
    metric: Metric, run: Callable[[Feed], Feed], settings: EvaluationSettings, artifact: str, device: str
) -> MetricValue:
    """Let the user's function evaluate an artifact.

    Args:
        metric: takes ``run``, which maps input arrays to output arrays, both by name; returns a dictionary of numbers.
            ``n`` is the number of samples; ``per_sample`` may hold the score of each, whose mean is the metric.
        settings: whose ``output`` is the metric that the gate reads; empty for the first one.

    Raises:
        InputError: the function raised, returned something else, or the metric is NaN or missing.
    """
    values, parts = metric.evaluate(run, MOST_SAMPLES)
    names = [name for name in values if name not in (COUNT, PER_SAMPLE)]
    if not names:
        _refuse(metric, "returned no number")
    name = settings.output or names[0]
    if name not in values:
        raise InputError(f"{metric.source} gives no metric {name!r}", f"metrics: {', '.join(names)}")
    if not math.isfinite(values[name]):
        _refuse(metric, f"returned {values[name]} for {name!r}")
    count = values.get(COUNT, 0.0)
    scores = None if parts is None else _per_sample(metric, parts, values[name], values.get(COUNT))
    return MetricValue(
        artifact=artifact,
        runner=device,
        metric=name,
        value=values[name],
        samples=scores.samples if scores else int(count) if 0 <= count < 1e15 else 0,
        lower_is_better=settings.lower_is_better,
        scores=scores,
        others={other: values[other] for other in names if other != name and math.isfinite(values[other])},
    )


def _per_sample(metric: Metric, parts: np.ndarray, value: float, count: float | None) -> Scores:
    if count is not None and parts.size != count:
        _refuse(metric, f"returned {parts.size:,} scores in {PER_SAMPLE!r}; {count:,.0f} samples")
    if not parts.size or not _is_finite(parts):
        _refuse(metric, f"returned {PER_SAMPLE!r} with NaN, infinity, a number beyond 3e38 or nothing in it")
    return Scores.of("hits" if np.isin(parts, (0, 1)).all() else "means", parts, whole=value)


def _is_finite(values: np.ndarray) -> bool:
    """Whether all are finite in float32, as scores are kept."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(np.float32)).all())


def _refuse(metric: Metric, what: str) -> NoReturn:
    raise InputError(f"{metric.source} {what}", "a metric must give finite numbers; run the function by itself")
