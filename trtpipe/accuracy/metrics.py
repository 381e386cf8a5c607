"""Task metrics, accumulated feed by feed; each keeps what every sample contributed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from trtpipe.accuracy.scores import Scores
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtpipe.artifact import Feed
    from trtpipe.config.recipe import EvaluationSettings


class Meter(Protocol):
    """Measures one artifact.

    Attributes:
        metric: its name.
        lower_is_better: whether a fall is good (error rates).
        needs_labels: whether feeds without labels say nothing.
    """

    @property
    def metric(self) -> str: ...

    @property
    def lower_is_better(self) -> bool: ...

    @property
    def needs_labels(self) -> bool: ...

    def update(self, outputs: Feed, wanted: Feed, labels: np.ndarray | None) -> None:
        """Add one feed: its outputs, the reference's, and its labels, one entry a row.

        Raises:
            InputError: the outputs or labels do not fit the metric.
        """

    def scores(self) -> Scores:
        """What every sample contributed."""


def make_meter(settings: EvaluationSettings) -> Callable[[], Meter]:
    """What makes a meter for each artifact, by the metric's name.

    Raises:
        InputError: a function of the user's cannot be loaded.
    """
    from trtpipe.accuracy.custom import CustomMeter, load_metric
    from trtpipe.accuracy.detection import MeanAveragePrecision
    from trtpipe.accuracy.transcripts import WordErrorRate

    metric, output = settings.metric, settings.output
    named: dict[str, Callable[[], Meter]] = {
        "top1": lambda: TopK(metric, output),
        "top5": lambda: TopK(metric, output),
        "cosine": lambda: Cosine(output),
        "map": lambda: MeanAveragePrecision(output),
        "wer": lambda: WordErrorRate(output),
    }
    if metric in named:
        return named[metric]
    function = load_metric(metric)
    return lambda: CustomMeter(function, lower_is_better=settings.lower_is_better)


_RANKS = {"top1": 1, "top5": 5}


class TopK:
    """Share of samples whose label is among the ``k`` largest scores.

    Args:
        metric: ``top1`` or ``top5``.
        output: the output that holds the scores, shape ``[batch, classes]`` (further axes of length 1 are ignored);
            for ``top1`` it may hold the best class itself, one integer a row. Empty for the first output.
    """

    lower_is_better = False
    needs_labels = True

    def __init__(self, metric: str, output: str) -> None:
        self.metric = metric
        self._k = _RANKS[metric]
        self._output = output
        self._hits: list[np.ndarray] = []

    def update(self, outputs: Feed, wanted: Feed, labels: np.ndarray | None) -> None:
        """Add one feed.

        Args:
            labels: int64, one a row.

        Raises:
            InputError: there is no such output, or its shape does not fit the labels.
        """
        name, scores = chosen(outputs, self._output)
        if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise InputError(f"{self.metric} needs one class number for each row", "choose a metric that fits the data")
        if scores.size == 0 or scores.shape[0] != len(labels) or scores.size % len(labels):
            raise InputError(
                f"output {name!r} has shape {list(scores.shape)} for {len(labels)} labels; {self.metric} needs "
                "[batch, classes]",
                "name the right output under [evaluation], or remove the metric",
            )
        if self._k == 1 and scores.size == len(labels) and scores.dtype.kind in "iu":
            self._hits.append(scores.ravel() == labels)
            return
        flat = scores.reshape(len(labels), -1).astype(np.float64)
        wrong = labels[(labels < 0) | (labels >= flat.shape[1])]
        if wrong.size:
            raise InputError(
                f"label {int(wrong[0])} does not fit the {flat.shape[1]} classes of output {name!r}",
                "check the labels' order and number",
            )
        own = np.take_along_axis(flat, labels[:, np.newaxis], axis=1)
        # NaN compares false, so a NaN score is never a hit; ties count for the class that comes first, as argmax does.
        better = (flat > own).sum(axis=1)
        ties_before = ((flat == own) & (np.arange(flat.shape[1]) < labels[:, np.newaxis])).sum(axis=1)
        self._hits.append((better + ties_before < self._k) & ~np.isnan(own[:, 0]))

    def scores(self) -> Scores:
        """1 for every hit."""
        return Scores.of("hits", joined(self._hits))


class Cosine:
    """Mean cosine similarity of every row with the reference's row: for embeddings; needs no labels.

    Args:
        output: the output to look at, shape ``[batch, ...]``; empty for the first one.
    """

    metric = "cosine"
    lower_is_better = False
    needs_labels = False

    def __init__(self, output: str) -> None:
        self._output = output
        self._values: list[np.ndarray] = []

    def update(self, outputs: Feed, wanted: Feed, labels: np.ndarray | None) -> None:
        """Add one feed.

        Raises:
            InputError: there is no such output, or it has no batch axis.
        """
        name, mine = chosen(outputs, self._output)
        if not mine.ndim or mine.dtype.kind != "f":
            raise InputError(f"output {name!r} holds no rows of floats for cosine", "name another output")
        a, b = (value.reshape(len(value), -1).astype(np.float64) for value in (mine, wanted[name]))
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (a * b).sum(axis=1) / norms
        self._values.append(np.where(norms == 0, (a == b).all(axis=1).astype(np.float64), found))

    def scores(self) -> Scores:
        """The similarity of every row; NaN counts as -1, the worst there is."""
        values = joined(self._values)
        return Scores.of("means", np.where(np.isnan(values), -1.0, values))


def chosen(outputs: Feed, name: str) -> tuple[str, np.ndarray]:
    """The output called ``name`` (empty: the first one), with its name.

    Raises:
        InputError: there is none.
    """
    if name and name not in outputs:
        raise InputError(f"no output is called {name!r}", f"outputs: {', '.join(outputs)}")
    found = name or next(iter(outputs))
    return found, outputs[found]


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """Arrays of many feeds as one; empty for none."""
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)
