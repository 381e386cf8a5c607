"""Task metrics, accumulated feed by feed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.backends.base import Feed

_RANKS = {"top1": 1, "top5": 5}


class TopK:
    """Share of samples whose label is among the ``k`` largest scores.

    Args:
        metric: ``top1`` or ``top5``.
        output: the output that holds the scores, shape ``[batch, classes]`` (further axes of length 1 are ignored);
            empty for the first output.
    """

    def __init__(self, metric: str, output: str) -> None:
        self.metric = metric
        self._k = _RANKS[metric]
        self._output = output
        self.hits = 0
        self.samples = 0

    def update(self, outputs: Feed, labels: np.ndarray) -> None:
        """Add one feed.

        Args:
            outputs: output name -> array.
            labels: int64, one a row.

        Raises:
            InputError: there is no such output, or its shape does not fit the labels.
        """
        if self._output and self._output not in outputs:
            raise InputError(f"no output is called {self._output!r}", f"outputs: {', '.join(outputs)}")
        name = self._output or next(iter(outputs))
        scores = outputs[name]
        if scores.size == 0 or scores.shape[0] != len(labels) or scores.size % len(labels):
            raise InputError(
                f"output {name!r} has shape {list(scores.shape)} for {len(labels)} labels; {self.metric} needs "
                "[batch, classes]",
                "name the right output under [evaluation], or remove the metric",
            )
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
        self.hits += int(((better + ties_before < self._k) & ~np.isnan(own[:, 0])).sum())
        self.samples += len(labels)

    @property
    def value(self) -> float:
        """The metric, between 0 and 1."""
        return self.hits / self.samples if self.samples else 0.0
