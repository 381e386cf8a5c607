"""Difference metrics of two streams of outputs, in bounded memory: differences by Polygraphy's Comparator."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.accuracy.alignment import aligned, noise_by_mask, reordered, without_ignored
from trtpipe.accuracy.departures import ROUNDING, Departures
from trtpipe.errors import StageError
from trtpipe.isolation.imports import without

if TYPE_CHECKING:
    from polygraphy.comparator import OutputCompareResult

    from trtpipe.accuracy.reports import Criterion, OutputParity
    from trtpipe.artifact import Feed
    from trtpipe.config.formats import Precision
    from trtpipe.config.limits import OutputLimits
    from trtpipe.config.profile import OutputTolerance, Tolerance

#: Noise outside of a mask that is none, as a share of all noise.
_MASKED = 1e-4
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
        self._chunk: list[tuple[Feed, Feed]] = []
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
        found, wanted = without_ignored(found, wanted, self._tolerance.ignore, feed or {})
        found = aligned(found, wanted, self._tolerance.unordered)
        mine, theirs = comparable(found, wanted)
        for name, value in wanted.items():
            is_float = value.dtype.kind not in "biu"
            metrics = self._metrics.setdefault(name, OutputMetrics(is_float=is_float, real=self._real))
            metrics.worst.add(mine[name], theirs[name], value.shape, self._feeds)
            metrics.agreement.add(found[name], value)
            metrics.reordered += name not in self._tolerance.unordered and reordered(found[name], value)
            metrics.add_masks(noise_by_mask(found[name], value, feed or {}), first=not self._feeds)
        self._feeds += 1
        self._chunk.append((mine, theirs))
        self._shapes.append({name: value.shape for name, value in wanted.items()})
        self._elements += sum(value.size for value in theirs.values())
        if len(self._chunk) >= _CHUNK_FEEDS or self._elements >= _CHUNK_ELEMENTS:
            self._flush()

    def results(self) -> tuple[OutputParity, ...]:
        """The metrics of every output over all feeds, and whether it is within tolerance."""
        self._flush()
        return tuple(metrics.result(name, self._rule(name, metrics)) for name, metrics in self._metrics.items())

    @property
    def hints(self) -> tuple[str, ...]:
        """What explains outputs that are not within tolerance: rows in another order, positions that a mask omits."""
        found = []
        for name in (result.output for result in self.results() if not result.passed):
            metrics = self._metrics[name]
            if metrics.reordered:
                found.append(
                    f"output {name!r} has the same values in another order: if the order of its rows does not count, "
                    f'list it in the profile: [tolerance] unordered = ["{name}"]'
                )
            for mask in (mask for mask, noise in metrics.masks.items() if noise <= _MASKED * metrics.noise):
                found.append(
                    f"output {name!r} differs only where input {mask!r} is 0: if these positions do not count, say so "
                    f'in the profile: [tolerance] ignore = {{"{name}" = "{mask}"}}'
                )
        return tuple(found)

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
        mine = {name: np.concatenate([found[name] for found, _ in self._chunk]) for name in self._metrics}
        theirs = {name: np.concatenate([wanted[name] for _, wanted in self._chunk]) for name in self._metrics}
        for name, metrics in self._metrics.items():
            shapes = [shape[name] for shape in self._shapes]
            for tail, start, end in _runs(shapes) if metrics.is_float else ():
                metrics.departures.add(mine[name][start:end].reshape(tail), theirs[name][start:end].reshape(tail))
        self._chunk, self._shapes, self._elements = [], [], 0
        rules = {name: self._tolerance.for_output(name, self._precision) for name in theirs}
        for name, result in _compared(mine, theirs, rules).items():
            self._metrics[name].add(result, mine[name], theirs[name])


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
    """Outputs as Polygraphy gets them: flat; integers and booleans as 1 (differs) or 0 (exact match).

    The distance between two class indices has no meaning; the share that differs has.
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


@dataclass
class LargestDifference:
    """The largest absolute difference so far, and its place."""

    gap: float = -1.0
    feed: int = 0
    index: tuple[int, ...] = ()

    def add(self, mine: np.ndarray, theirs: np.ndarray, shape: tuple[int, ...], feed: int) -> None:
        """Add one feed's flat values; ``shape`` is the output's own."""
        if not theirs.size:
            return
        with np.errstate(invalid="ignore"):
            gaps = np.where(mine == theirs, 0.0, np.abs(mine - theirs))
        where = int(gaps.argmax())  # the first NaN, if there is one
        gap = float(gaps[where])
        if not (math.isnan(self.gap) or gap <= self.gap):  # NaN counts as larger than any number
            self.gap, self.feed = gap, feed
            self.index = tuple(int(i) for i in np.unravel_index(where, shape))


@dataclass(frozen=True)
class Differences:
    """Of two flat arrays of floats: what Polygraphy computes of them, computed with numpy alone."""

    max_absdiff: float
    max_reldiff: float
    mean_absdiff: float
    mean_reldiff: float
    median_absdiff: float
    close: bool

    def __bool__(self) -> bool:
        return self.close

    @classmethod
    def of(cls, mine: np.ndarray, theirs: np.ndarray, limits: OutputLimits) -> Differences:
        """Those of arrays that are not empty; ``limits`` gives the tolerance of single elements."""
        with np.errstate(all="ignore"):
            gaps = np.where(mine == theirs, 0.0, np.abs(mine.astype(np.float64) - theirs))
            relative = np.where(gaps == 0, 0.0, gaps / np.abs(theirs, dtype=np.float64))
            close = (gaps <= (limits.atol or 0.0)) | (relative <= (limits.rtol or 0.0))
        return cls(
            max_absdiff=float(gaps.max()),
            max_reldiff=float(relative.max()),
            mean_absdiff=float(gaps.mean()),
            mean_reldiff=float(relative.mean()),
            median_absdiff=float(np.median(gaps)),
            close=bool(close.all()),
        )


@dataclass
class OutputMetrics:
    """The metrics of one output. Means are weighted by elements, so chunking does not change them.

    Attributes:
        real: whether the samples are; see ``OutputComparison``.
        reordered: feeds in which rows came in another order.
        masks: inputs that may be masks of this output -> noise where they are not 0.
        product, signal, other, noise: sums of ``x y``, ``x²``, ``y²`` and ``(y - x)²``.
        scale: statistics of ``|x|``, the mean and the median times the number of elements.
    """

    is_float: bool
    real: bool = True
    elements: int = 0
    elements_passed: bool = True
    max_abs: float = 0.0
    max_rel: float = 0.0
    mean_abs: float = 0.0
    mean_rel: float = 0.0
    median_abs: float = 0.0
    product: float = 0.0
    signal: float = 0.0
    other: float = 0.0
    noise: float = 0.0
    scale: dict[str, float] = field(default_factory=lambda: {"max": 0.0, "mean": 0.0, "median": 0.0})
    worst: LargestDifference = field(default_factory=LargestDifference)
    agreement: ClassAgreement = field(default_factory=ClassAgreement)
    departures: Departures = field(default_factory=Departures)
    reordered: int = 0
    masks: dict[str, float] = field(default_factory=dict)

    def add_masks(self, noise: Mapping[str, float], *, first: bool) -> None:
        """Add the noise of one feed where an input is not 0; one that is no mask in some feed is none."""
        known = noise if first else self.masks.keys() & noise.keys()
        self.masks = {name: self.masks.get(name, 0.0) + noise[name] for name in known}

    def add(self, result: OutputCompareResult | Differences, mine: np.ndarray, theirs: np.ndarray) -> None:
        """Add one chunk's metrics. A NaN makes the sums NaN, and NaN never passes."""
        count = theirs.size
        if not count:
            return
        self.elements += count
        self.elements_passed &= bool(result)
        self.max_abs = float(np.maximum(self.max_abs, result.max_absdiff))  # NaN if either is
        self.max_rel = float(np.maximum(self.max_rel, result.max_reldiff))
        self.mean_abs += result.mean_absdiff * count
        self.mean_rel += result.mean_reldiff * count
        self.median_abs += result.median_absdiff * count
        magnitude = np.abs(theirs, dtype=np.float64)
        self.scale["max"] = float(np.maximum(self.scale["max"], magnitude.max()))
        self.scale["mean"] += float(magnitude.sum())
        self.scale["median"] += float(np.median(magnitude)) * count
        with np.errstate(all="ignore"):
            difference = np.where(mine == theirs, 0.0, mine.astype(np.float64) - theirs)
            self.product += float((mine.astype(np.float64) * theirs).sum())
            self.signal += float(np.square(magnitude).sum())
            self.other += float(np.square(mine, dtype=np.float64).sum())
            self.noise += float(np.square(difference).sum())

    @property
    def about_mean(self) -> bool:
        """Whether errors are compared with what the input changes: the samples are real, and they change something."""
        return self.real and self.is_float and self.departures.power > ROUNDING**2 * self.signal

    @property
    def snr_db(self) -> float:
        """The signal's power over the noise's; the signal is what departs from the mean."""
        return decibel(self.departures.power if self.about_mean else self.signal, self.noise)

    @property
    def cosine(self) -> float:
        """Of what departs from the mean in both; else of the values themselves, which are equal if all are 0."""
        if self.about_mean:
            return self.departures.cosine(self.noise)
        if not self.noise:
            return 1.0
        norm = math.sqrt(self.signal) * math.sqrt(self.other)
        return self.product / norm if norm else 0.0

    def result(self, name: str, tolerance: OutputTolerance) -> OutputParity:
        """The metrics over all elements, and whether they are within ``tolerance``."""
        from trtpipe.accuracy.reports import OutputParity

        count = max(self.elements, 1)
        broken = self.broken(tolerance)
        return OutputParity(
            output=name,
            max_abs=self.max_abs,
            max_rel=self.max_rel,
            mean_abs=self.mean_abs / count,
            mean_rel=self.mean_rel / count,
            median_abs=self.median_abs / count,
            scale=self.scale["mean"] / count,
            spread=math.sqrt(self.departures.power / count),
            about_mean=self.about_mean,
            cosine=self.cosine if self.is_float else None,
            agreement=None if self.is_float else self.agreed,
            snr_db=self.snr_db,
            worst_feed=self.worst.feed,
            worst_index=self.worst.index,
            top1_agreement=self.agreement.share(self.agreement.top1),
            top5_agreement=self.agreement.share(self.agreement.top5),
            tolerance=tolerance,
            passed=not broken,
            broken=broken,
        )

    @property
    def agreed(self) -> float:
        """Share of equal values: of integers and booleans, the noise is the number of differences."""
        return 1 - self.noise / max(self.elements, 1)

    def broken(self, limits: OutputTolerance | OutputLimits) -> tuple[Criterion, ...]:
        """The criteria that do not hold."""
        return tuple(self._broken(limits, max(self.elements, 1)))

    def _broken(self, tolerance: OutputTolerance | OutputLimits, count: int) -> Iterator[Criterion]:
        if not self.is_float:
            if not _at_least(self.agreed, tolerance.min_agreement):
                yield "agreement"
            return
        if math.isnan(self.max_abs) or not self._close(tolerance, count):
            yield "difference"
        if (
            math.isfinite(self.noise) and self.noise <= ROUNDING**2 * self.signal
        ):  # also where there is no signal and no noise
            return
        if not _at_least(self.cosine, tolerance.min_cosine):
            yield "cosine"
        if not _at_least(self.snr_db, tolerance.min_snr_db):
            yield "snr"

    def _close(self, tolerance: OutputTolerance | OutputLimits, count: int) -> bool:
        errors = {"max": self.max_abs, "mean": self.mean_abs / count, "median": self.median_abs / count}
        if tolerance.stat not in errors:
            return self.elements_passed
        scale = whole = self.scale[tolerance.stat] / (1 if tolerance.stat == "max" else count)
        if self.about_mean:
            spread = math.sqrt(self.departures.power / count)
            scale = self.departures.largest if tolerance.stat == "max" else spread
        return errors[tolerance.stat] <= (tolerance.atol or 0.0) + (tolerance.rtol or 0.0) * scale + ROUNDING * whole


def _at_least(found: float, least: float | None) -> bool:
    """Whether ``found`` reaches ``least``; true where there is no limit."""
    return least is None or found >= least


def decibel(signal: float, noise: float) -> float:
    """The ratio of two powers in dB; infinite without noise, NaN where either is not finite."""
    if noise == 0:
        return math.inf
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return math.nan
    return 10 * math.log10(signal / noise) if signal else -math.inf
