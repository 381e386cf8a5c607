"""Difference metrics of two streams of outputs, in bounded memory: differences by Polygraphy's Comparator."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.accuracy.alignment import Unfilled, aligned, counted, noise_by_mask, reordered
from trtpipe.accuracy.dominance import Dominance
from trtpipe.accuracy.output_metrics import OutputMetrics, decibel, flat_values
from trtpipe.errors import StageError
from trtpipe.isolation.imports import without

if TYPE_CHECKING:
    from polygraphy.comparator import OutputCompareResult

    from trtpipe.accuracy.reports import OutputParity
    from trtpipe.artifact import Feed
    from trtpipe.config.formats import Precision
    from trtpipe.config.profile import OutputTolerance, Tolerance

#: Noise outside of a mask that is none, as a share of all noise.
_MASKED = 1e-4
#: Channels that are listed.
_NAMED = 8
_CHUNK_FEEDS = 64
_CHUNK_ELEMENTS = 4_000_000


class OutputComparison:
    """The outputs of one artifact against those of another, feed by feed.

    One Polygraphy comparison takes milliseconds whatever its size, so outputs are compared in chunks of feeds and then
    dropped; only sums remain.

    Args:
        tolerance: the profile's; ``precision`` fills its gaps.
        real: whether the samples are; what random ones change in an output says nothing of what real ones do, so that
            errors are then compared with the output's whole magnitude.
    """

    def __init__(self, tolerance: Tolerance, precision: Precision, *, real: bool = True) -> None:
        self._tolerance = tolerance
        self._precision: Precision = precision
        self._real = real
        self._metrics: dict[str, OutputMetrics] = {}
        self._classes: dict[str, ClassAgreement] = {}
        self._causes: dict[str, PossibleCauses] = {}
        self._dominance: dict[str, Dominance] = {}
        self._chunk: list[tuple[Feed, Feed, Feed]] = []
        self._shapes: list[dict[str, tuple[int, ...]]] = []
        self._elements = 0
        self._feeds = 0

    def add(self, found: Feed, wanted: Feed, feed: Feed | None = None) -> None:
        """Add the outputs of one feed, each name -> array.

        Args:
            feed: its inputs, for positions that an input says do not count.

        Raises:
            StageError: an output differs in shape.
            InputError: the tolerance names outputs or inputs that do not fit.
        """
        found = aligned(found, wanted, self._tolerance.unordered)
        found, wanted, counts = counted(found, wanted, self._tolerance.ignore, feed or {})
        mine, theirs = comparable(found, wanted)
        for name, value in wanted.items():
            is_float = value.dtype.kind not in "biu"
            metrics = self._metrics.setdefault(name, OutputMetrics(is_float=is_float, real=self._real))
            metrics.worst.add(mine[name], theirs[name], value.shape, self._feeds)
            if not is_float:
                metrics.values.add(found[name][counts[name]], value[counts[name]])
            self._classes.setdefault(name, ClassAgreement()).add(found[name], value)
            self._causes.setdefault(name, PossibleCauses()).add(found[name], value, feed or {})
            self._dominance.setdefault(name, Dominance()).add(found[name], value, counts[name])
        self._feeds += 1
        self._chunk.append((mine, theirs, {name: where.ravel() for name, where in counts.items()}))
        self._shapes.append({name: value.shape for name, value in wanted.items()})
        self._elements += sum(value.size for value in theirs.values())
        if len(self._chunk) >= _CHUNK_FEEDS or self._elements >= _CHUNK_ELEMENTS:
            self._flush()

    def results(self) -> tuple[OutputParity, ...]:
        """The metrics of every output over all feeds, and whether it is within tolerance."""
        self._flush()
        return tuple(
            _result(name, metrics, self._classes[name], self._rule(name, metrics))
            for name, metrics in self._metrics.items()
        )

    @property
    def hints(self) -> tuple[str, ...]:
        """What explains outputs that are not within tolerance, and which outputs were not judged as they seem to be."""
        found: list[str] = []
        for result in self.results():
            name = result.output
            metrics, causes = self._metrics[name], self._causes[name]
            found += _scale_words(name, metrics)
            if not result.passed:
                found += causes.of(name, metrics.noise, result.tolerance, ordered=name not in self._tolerance.unordered)
                continue
            if metrics.about_mean:
                found += self._dominance[name].words(name, result.tolerance.min_snr_db)
            elif (
                metrics.real
                and metrics.elements
                and metrics.constant
                and (metrics.departures.repeated or self._feeds > 1)
            ):
                found.append(
                    f"output {name!r} is the same for all samples, so how well it follows the input was not seen: "
                    "unless it is a constant of the model, check the data and how it is prepared"
                )
            if not metrics.elements:
                found.append(f"output {name!r} has no value that counts on any sample, so nothing of it was compared")
        return tuple(found)

    @property
    def empty(self) -> bool:
        """Whether no output had a value that counts."""
        self._flush()
        return not any(metrics.elements for metrics in self._metrics.values())

    def _rule(self, name: str, metrics: OutputMetrics) -> OutputTolerance:
        """The tolerance for an output. Integers beside floats, in a lowered graph, need an explicit one.

        Indices of nearly equal scores, as of a top-k, swap at the slightest rounding, so no default bound fits them;
        the float outputs decide.
        """
        rule = self._tolerance.for_output(name, self._precision)
        asked = self._tolerance.min_agreement is not None or name in self._tolerance.outputs
        alone = not any(other.is_float for other in self._metrics.values())
        if metrics.is_float or asked or alone or not self._precision.formats:
            return rule
        return rule.model_copy(update={"min_agreement": None})

    @without("torch")  # results are computed when they are read
    def _flush(self) -> None:
        """Compare the feeds of this chunk."""
        if not self._chunk:
            return
        mine, theirs, counts = (
            {name: np.concatenate([each[side][name] for each in self._chunk]) for name in self._metrics}
            for side in range(3)
        )
        for name, metrics in self._metrics.items():
            shapes = [shape[name] for shape in self._shapes]
            for tail, start, end in _runs(shapes) if metrics.is_float else ():
                parts = (side[name][start:end].reshape(tail) for side in (mine, theirs, counts))
                metrics.departures.add(*parts)
        self._chunk, self._shapes, self._elements = [], [], 0
        mine, theirs = ({name: side[name][counts[name]] for name in side} for side in (mine, theirs))
        rules = {name: self._tolerance.for_output(name, self._precision) for name in theirs}
        for name, result in _compared(mine, theirs, rules).items():
            self._metrics[name].add(result, mine[name], theirs[name])


def _result(name: str, metrics: OutputMetrics, classes: ClassAgreement, tolerance: OutputTolerance) -> OutputParity:
    """The metrics over all elements, and whether they are within ``tolerance``."""
    from trtpipe.accuracy.reports import OutputParity

    broken = metrics.broken(tolerance)
    return OutputParity(
        output=name,
        max_abs=metrics.max_abs,
        max_rel=metrics.max_rel,
        mean_abs=metrics.mean_abs,
        mean_rel=metrics.rel_sum / metrics.count,
        median_abs=metrics.median_sum / metrics.count,
        scale=metrics.scale,
        spread=metrics.spread,
        about_mean=metrics.about_mean,
        cosine=metrics.cosine,
        agreement=metrics.agreement,
        snr_db=metrics.snr_db,
        worst_feed=metrics.worst.feed,
        worst_index=metrics.worst.index,
        top1_agreement=classes.share(classes.top1),
        top5_agreement=classes.share(classes.top5),
        tolerance=tolerance,
        passed=not broken,
        broken=broken,
    )


def _scale_words(name: str, metrics: OutputMetrics) -> Iterator[str]:
    """Which channels the SNR is of, where it is not that of all."""
    worst = metrics.worst_channels
    if worst is None or decibel(worst.power, worst.noise) >= decibel(metrics.departures.power, metrics.noise):
        return
    first, more = ", ".join(str(number) for number in worst.numbers[:_NAMED]), len(worst.numbers) - _NAMED
    channels = f"{first} and {more} more" if more > 0 else first
    yield (
        f"the SNR of output {name!r} is that of channels {channels} (axis {worst.axis}), which vary on another scale "
        f"than the rest; of all together it is {decibel(metrics.departures.power, metrics.noise):.1f} dB"
    )


def _runs(shapes: list[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Consecutive feeds whose samples have one shape: that of an array of all of them, and where its values are."""
    end = 0
    for tail, group in groupby(shapes, key=lambda shape: shape[1:]):
        start, size = end, math.prod(tail)
        end += sum(math.prod(shape) for shape in group)
        if size:
            yield (-1, *tail), start, end


@without("torch")
def _compared(mine: Feed, theirs: Feed, rules: Mapping[str, OutputTolerance]) -> dict[str, OutputCompareResult]:
    """Polygraphy's metrics of the differences in one chunk, for every output."""
    from polygraphy.comparator import Comparator, IterationResult, RunResults, SimpleCompareFunc
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
        warnings.simplefilter("ignore")  # numpy's, on empty or infinite outputs; the metrics show them
        [found] = Comparator.compare_accuracy(results, compare_func=[differences])
    simple = next(iter(found.values()))[0]
    return {name: simple[name] for name in theirs}


def comparable(found: Feed, wanted: Feed) -> tuple[Feed, Feed]:
    """Outputs as Polygraphy gets them, by ``flat_values``.

    Raises:
        StageError: an output differs in shape.
    """
    mine, theirs = {}, {}
    for name, value in wanted.items():
        other = found[name]
        if other.shape != value.shape:
            raise StageError(
                f"output {name!r} has shape {list(other.shape)}, the reference's has {list(value.shape)}",
                "an output whose shape depends on the data cannot be compared; leave it out of the model",
            )
        mine[name], theirs[name] = flat_values(other, value)
    return mine, theirs


@dataclass
class PossibleCauses:
    """Differences of one output that need not be errors, over all feeds.

    Attributes:
        reordered: feeds in which rows came in another order.
        masks: inputs that may be masks of this output -> noise where they are not 0.
    """

    feeds: int = 0
    reordered: int = 0
    masks: dict[str, float] = field(default_factory=dict)
    unfilled: Unfilled = field(default_factory=Unfilled)

    def add(self, found: np.ndarray, wanted: np.ndarray, feed: Feed) -> None:
        """Add one feed; an input that is no mask in some feed is none."""
        self.reordered += reordered(found, wanted)
        noise = noise_by_mask(found, wanted, feed)
        known = self.masks.keys() & noise.keys() if self.feeds else noise.keys()
        self.masks = {name: self.masks.get(name, 0.0) + noise[name] for name in known}
        self.unfilled.add(found, wanted)
        self.feeds += 1

    def of(self, name: str, noise: float, limits: OutputTolerance, *, ordered: bool) -> Iterator[str]:
        """What explains that the output is not within tolerance.

        Args:
            noise: of the whole output.
            ordered: whether the order of its rows counts.
        """
        if ordered and self.reordered:
            yield (
                f"output {name!r} has the same values in another order: if the order of its rows does not count, "
                f'list it in the profile: [tolerance] unordered = ["{name}"]'
            )
        for mask in (mask for mask, outside in self.masks.items() if outside <= _MASKED * noise):
            yield (
                f"output {name!r} differs only where input {mask!r} is 0: if these positions do not count, say so "
                f'in the profile: [tolerance] ignore = {{"{name}" = "{mask}"}}'
            )
        rest = self.unfilled
        if len(rest.values) == 1 and decibel(rest.signal, rest.noise) >= (limits.min_snr_db or 0.0):
            [value] = rest.values
            yield (
                f"output {name!r} differs only where the reference is {value}: if these positions do not count, say so "
                f'in the profile: [tolerance] ignore = {{"{name}" = {value}}}'
            )


@dataclass
class ClassAgreement:
    """Top-1 and top-5 agreement: how often the reference's best class is the best, or among the five best, here."""

    rows: int = 0
    top1: int = 0
    top5: int = 0

    def add(self, mine: np.ndarray, theirs: np.ndarray) -> None:
        """Add the rows of two outputs of shape [rows, classes]; other shapes are ignored."""
        if theirs.ndim != 2 or theirs.shape[1] < 2 or theirs.dtype.kind != "f":
            return
        from trtpipe.accuracy.meter import ranks

        found = ranks(mine, theirs.argmax(axis=1))
        self.rows += len(found)
        self.top1 += int((found < 1).sum())
        self.top5 += int((found < 5).sum())

    def share(self, hits: int) -> float | None:
        """``hits`` of all rows; ``None`` where there are no classes."""
        return hits / self.rows if self.rows else None
