"""Word error rate: edits between what was said and what was understood, over the number of words said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.accuracy.metrics import chosen
from trtpipe.accuracy.scores import Scores
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.artifact import Feed

#: The class that connectionist temporal classification (Graves et al. 2006) reads as "nothing new", by convention.
_BLANK = 0


class WordErrorRate:
    """Substitutions, deletions and insertions over the number of tokens in the labels.

    Tokens are whatever the labels count in: words, characters or word pieces.

    Args:
        output: token numbers ``[batch, length]`` (integers; negative ones are padding), or scores
            ``[batch, steps, classes]``, which are read greedily as CTC: the best class of each step, repeats
            collapsed, class 0 dropped. Empty for the first output.
    """

    metric = "wer"
    lower_is_better = True
    needs_labels = True

    def __init__(self, output: str) -> None:
        self._output = output
        self._errors: list[float] = []
        self._words: list[float] = []

    def update(self, outputs: Feed, wanted: Feed, labels: np.ndarray | None) -> None:
        """Add one feed.

        Args:
            labels: integers ``[batch, length]``, padded with -1.

        Raises:
            InputError: outputs or labels have another shape.
        """
        name, found = chosen(outputs, self._output)
        if labels is None or labels.ndim != 2 or labels.dtype.kind not in "iu":
            raise InputError(
                "wer needs rows of token numbers as labels", "give integers [rows, length], padded with -1"
            )
        said = [row[row >= 0].tolist() for row in labels]
        understood = _tokens(name, found)
        if len(said) != len(understood):
            raise InputError(f"output {name!r} has {len(understood)} rows for {len(said)} labels", "check the labels")
        self._errors += [float(edit_distance(a, b)) for a, b in zip(said, understood, strict=True)]
        self._words += [float(len(row)) for row in said]

    def scores(self) -> Scores:
        """Edits and tokens of every sample."""
        return Scores.of("ratio", np.array(self._errors), np.array(self._words))


def _tokens(name: str, output: np.ndarray) -> list[list[int]]:
    if output.ndim == 2 and output.dtype.kind in "iu":
        return [row[row >= 0].tolist() for row in output]
    if output.ndim == 3 and output.dtype.kind == "f":
        return [_collapsed(row) for row in output.argmax(axis=2)]
    raise InputError(
        f"output {name!r} is {output.dtype}{list(output.shape)}; wer reads token numbers [batch, length] or scores "
        "[batch, steps, classes]",
        "name the right output under [evaluation], or give a function of your own as the metric",
    )


def _collapsed(classes: np.ndarray) -> list[int]:
    kept = np.flatnonzero(np.diff(classes, prepend=_BLANK - 1))
    return [int(value) for value in classes[kept] if value != _BLANK]


def edit_distance(a: list[int], b: list[int]) -> int:
    """Levenshtein distance: the least number of substitutions, deletions and insertions from ``a`` to ``b``."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
