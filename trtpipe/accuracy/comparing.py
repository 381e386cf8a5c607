"""Two streams of outputs side by side, through Polygraphy's Comparator, in bounded memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.accuracy.figures import Figures
from trtpipe.errors import StageError
from trtpipe.isolation.imports import without

if TYPE_CHECKING:
    from polygraphy.comparator import OutputCompareResult

    from trtpipe.accuracy.reports import OutputParity
    from trtpipe.artifact import Feed
    from trtpipe.config.formats import Precision
    from trtpipe.config.profile import OutputTolerance, Tolerance

_CHUNK_FEEDS = 64
_CHUNK_ELEMENTS = 4_000_000


class Pair:
    """The outputs of one artifact against those of another, feed by feed.

    Polygraphy takes milliseconds a comparison whatever its size, so outputs wait and are compared in chunks of feeds;
    then they are dropped, and what remains are sums.

    Args:
        tolerance: the profile's; ``precision`` fills its gaps.
    """

    def __init__(self, tolerance: Tolerance, precision: Precision) -> None:
        self._tolerance = tolerance
        self._precision: Precision = precision
        self._figures: dict[str, Figures] = {}
        self._waiting: list[tuple[Feed, Feed]] = []
        self._elements = 0
        self._feeds = 0

    def add(self, found: Feed, wanted: Feed) -> None:
        """Take the outputs of one feed.

        Raises:
            StageError: they differ in shape.
        """
        mine, theirs = _comparable(found, wanted)
        for name, value in wanted.items():
            figures = self._figures.setdefault(name, Figures(is_float=value.dtype.kind not in "biu"))
            figures.worst.add(mine[name], theirs[name], value.shape, self._feeds)
            figures.agreement.add(found[name], value)
        self._feeds += 1
        self._waiting.append((mine, theirs))
        self._elements += sum(value.size for value in theirs.values())
        if len(self._waiting) >= _CHUNK_FEEDS or self._elements >= _CHUNK_ELEMENTS:
            self._flush()

    def results(self) -> tuple[OutputParity, ...]:
        """The figures of all outputs over all feeds, judged."""
        self._flush()
        return tuple(figures.result(name, self._rule(name, figures)) for name, figures in self._figures.items())

    def _rule(self, name: str, figures: Figures) -> OutputTolerance:
        """The tolerance for an output. Of a lowered graph integers beside floats need one of their own to be judged.

        Indices of equally good candidates, as of a top-k, change places at the slightest rounding: for them no general
        bound would be right, and the floats tell whether the graph is sound.
        """
        rule = self._tolerance.for_output(name, self._precision)
        asked = self._tolerance.min_agreement is not None or name in self._tolerance.outputs
        alone = not any(other.is_float for other in self._figures.values())
        if figures.is_float or asked or alone or not self._precision.formats:
            return rule
        return rule.model_copy(update={"min_agreement": None})

    @without("torch")  # results are computed when they are read
    def _flush(self) -> None:
        """Compare what waits."""
        if not self._waiting:
            return
        mine = {name: np.concatenate([found[name] for found, _ in self._waiting]) for name in self._figures}
        theirs = {name: np.concatenate([wanted[name] for _, wanted in self._waiting]) for name in self._figures}
        self._waiting, self._elements = [], 0
        rules = {name: self._tolerance.for_output(name, self._precision) for name in theirs}
        for name, (result, cosine) in _compared(mine, theirs, rules).items():
            self._figures[name].add(result, cosine, mine[name], theirs[name])


@without("torch")
def _compared(
    mine: Feed, theirs: Feed, rules: Mapping[str, OutputTolerance]
) -> dict[str, tuple[OutputCompareResult, float]]:
    """Polygraphy's figures for one chunk: differences, and cosine similarity, for every output."""
    from polygraphy.comparator import (
        Comparator,
        CosineSimilarityCompareFunc,
        IterationResult,
        RunResults,
        SimpleCompareFunc,
    )
    from polygraphy.logger import G_LOGGER

    results = RunResults()
    for name, outputs in (("found", mine), ("wanted", theirs)):
        results.append((name, [IterationResult(outputs, runtime=0.0, runner_name=name)]))
    differences = SimpleCompareFunc(
        atol={name: rule.atol for name, rule in rules.items()},
        rtol={name: rule.rtol for name, rule in rules.items()},
        check_error_stat={name: rule.stat for name, rule in rules.items()},
        infinities_compare_equal=True,
    )
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, on empty or infinite outputs; the figures themselves tell
        by_function = Comparator.compare_accuracy(results, compare_func=[differences, CosineSimilarityCompareFunc()])
    simple, cosine = (next(iter(result.values()))[0] for result in by_function)
    return {name: (simple[name], float(cosine[name].cosine_similarity)) for name in theirs}


def _comparable(found: Feed, wanted: Feed) -> tuple[Feed, Feed]:
    """Outputs as Polygraphy should see them: flat, and integers and booleans as "differs" (1) or "equal" (0).

    The distance between two class indices means nothing; the share that differs does.
    """
    mine, theirs = {}, {}
    for name, value in wanted.items():
        other = found[name]
        if other.shape != value.shape:
            raise StageError(
                f"output {name!r} has shape {list(other.shape)}, the reference's has {list(value.shape)}",
                "an output whose shape depends on the data cannot be compared; leave it out of the model",
            )
        if value.dtype.kind in "biu":
            mine[name], theirs[name] = (other != value).ravel().astype(np.float32), np.zeros(value.size, np.float32)
        else:
            mine[name] = other.ravel().astype(np.float32, copy=False)
            theirs[name] = value.ravel().astype(np.float32, copy=False)
    return mine, theirs
