"""User-defined metrics: a function of one feed's outputs and labels, or one that runs the whole evaluation."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from trtpipe.accuracy.meter import MOST_SAMPLES, Meter, Scores, concatenated
from trtpipe.accuracy.reports import MetricValue
from trtpipe.data.usercode import UserFunction, importable, load_function
from trtpipe.digest import sha256_file, sha256_json
from trtpipe.errors import InputError, TrtpipeError

if TYPE_CHECKING:
    from trtpipe.artifact import Feed
    from trtpipe.config.recipe import EvaluationSettings
    from trtpipe.digest import JSON

#: Files beside a metric's own that count as part of it, up to this many bytes in all.
_BESIDE_BYTES = 256 << 20
#: Entry of an evaluation's dictionary that holds the score of every sample, or their number.
PER_SAMPLE, COUNT = "per_sample", "n"


@dataclass(frozen=True)
class Metric(UserFunction):
    """A function of the user that measures.

    Attributes:
        whole: whether it takes ``run`` and does the evaluation itself.
    """

    call: Callable[..., Any]
    whole: bool


def load_metric(source: str) -> Metric:
    """The function that ``path/file.py:function`` or ``package.module:function`` names.

    With one parameter that has no default it is ``evaluate(run) -> dict``; with two, ``metric(outputs, labels)``.

    Raises:
        InputError: no such file, module or function, or it takes something else.
    """
    found = load_function(source)
    needed = _required(found.call)
    if needed not in (1, 2):
        raise InputError(
            f"{source} needs {needed} arguments",
            "write evaluate(run) -> {'metric': number}, or metric(outputs, labels) -> one number a row",
        )
    return Metric(source, found.label, found.folder, found.call, whole=needed == 1)


def fingerprint(source: str) -> str:
    """The content of a metric: its file, and the files beside it (which may hold its data).

    Of a module only the name counts; so does a folder whose files exceed 256 MB.
    """
    place = Path(source.rpartition(":")[0])
    if place.suffix != ".py" or not place.is_file():
        return sha256_json(source)
    files = sorted(path for path in place.resolve().parent.iterdir() if path.is_file())
    if sum(path.stat().st_size for path in files) > _BESIDE_BYTES:
        files = [place]
    return sha256_json([place.name, source.rpartition(":")[2], [[path.name, sha256_file(path)] for path in files]])


def evaluation_key(evaluation: EvaluationSettings | None) -> dict[str, JSON]:
    """Everything that decides an evaluation's result besides the data."""
    if evaluation is None:
        return {}
    found = evaluation.to_dict()
    found.pop("source", None)
    return {**found, "metric": fingerprint(evaluation.metric)} if evaluation.own else found


def _required(function: Callable[..., Any]) -> int:
    """How many parameters have no default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


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
        rows = len(labels) if labels is not None else next((len(v) for v in outputs.values() if v.ndim), 1)
        found = _call(self._function, _copies(outputs), None if labels is None else labels.copy())
        try:
            values = np.atleast_1d(np.asarray(found, np.float64)).ravel()
        except (TypeError, ValueError):
            _refuse(self._function, f"returned {type(found).__name__}, not numbers")
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
    found = _call(metric, lambda feed: _copies(run(feed)))
    if not isinstance(found, Mapping):
        _refuse(metric, f"returned {type(found).__name__}, not a dictionary of numbers")
    values = {str(name): float(value) for name, value in found.items() if isinstance(value, numbers.Real)}
    names = [name for name in values if name not in (COUNT, PER_SAMPLE)]
    if not names:
        _refuse(metric, "returned no number")
    name = settings.output or names[0]
    if name not in values:
        raise InputError(f"{metric.source} gives no metric {name!r}", f"metrics: {', '.join(names)}")
    if not math.isfinite(values[name]):
        _refuse(metric, f"returned {values[name]} for {name!r}")
    count = values.get(COUNT, 0.0)
    scores = _per_sample(metric, found, values[name], count)
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


def _copies(arrays: Feed) -> Feed:
    """What a user's function may write into: whatever else looks at the outputs sees them as they were."""
    return {name: np.array(value) for name, value in arrays.items()}


def _per_sample(metric: Metric, found: Mapping[Any, Any], value: float, count: float) -> Scores | None:
    if PER_SAMPLE not in found:
        return None
    size = np.size(found[PER_SAMPLE])
    if size > MOST_SAMPLES or (COUNT in found and size != count):
        limit = f"{count:,.0f} samples" if COUNT in found else f"{MOST_SAMPLES:,} at most"
        _refuse(metric, f"returned {size:,} scores in {PER_SAMPLE!r}; {limit}")
    try:
        parts = np.asarray(found[PER_SAMPLE], np.float64).ravel()
    except (TypeError, ValueError):
        _refuse(metric, f"returned {PER_SAMPLE!r} that holds no numbers")
    if not parts.size or not _is_finite(parts):
        _refuse(metric, f"returned {PER_SAMPLE!r} with NaN, infinity, a number beyond 3e38 or nothing in it")
    return Scores.of("hits" if np.isin(parts, (0, 1)).all() else "means", parts, whole=value)


def _is_finite(values: np.ndarray) -> bool:
    """Whether all are finite in float32, as scores are kept."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(np.float32)).all())


def _call(metric: Metric, *arguments: Any) -> Any:
    try:
        with importable(metric.folder):
            return metric.call(*arguments)
    except TrtpipeError:
        raise  # from ``run``: the artifact's own failure
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{metric.source} raised {type(error).__name__}: {error}", "run the function by itself and fix it"
        ) from error


def _refuse(metric: Metric, what: str) -> NoReturn:
    raise InputError(f"{metric.source} {what}", "a metric must give finite numbers; run the function by itself")
