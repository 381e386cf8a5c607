"""The figures of one output against the reference's: sums over feeds, and whether they are within limits.

It is a part of ``finish.py``, too (``trtpipe.delivery.finish``), and so is written for Python 3.8 and numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from trtpipe.accuracy.alignment import ROUNDING
from trtpipe.accuracy.departures import Channels, Departures

if TYPE_CHECKING:
    from typing import TypeAlias

    Array: TypeAlias = "np.ndarray[Any, Any]"

#: What an output is judged by: the absolute difference, cosine similarity, SNR; of integers, the share of equal values.
Criterion = Literal["difference", "cosine", "snr", "agreement"]
#: Distinct values of an output of integers that are counted: one that most elements have is among the first ones.
MOST_VALUES = 4096


class Limits(Protocol):
    """When an output counts as equal: ``OutputLimits``, or a profile's ``OutputTolerance``."""

    @property
    def atol(self) -> float | None: ...
    @property
    def rtol(self) -> float | None: ...
    @property
    def stat(self) -> str | None: ...
    @property
    def min_cosine(self) -> float | None: ...
    @property
    def min_snr_db(self) -> float | None: ...
    @property
    def min_agreement(self) -> float | None: ...


class ElementDifferences(Protocol):
    """Statistics of the differences of single elements: ``Differences``, or Polygraphy's."""

    @property
    def max_absdiff(self) -> float: ...
    @property
    def max_reldiff(self) -> float: ...
    @property
    def mean_absdiff(self) -> float: ...
    @property
    def mean_reldiff(self) -> float: ...
    @property
    def median_absdiff(self) -> float: ...
    def __bool__(self) -> bool: ...


def flat_values(found: Array, wanted: Array) -> tuple[Array, Array]:
    """Two outputs of one shape as they are compared: flat, at least in float32; integers and booleans as 1 (differs)
    or 0 (exact match).

    The distance between two class indices has no meaning; the share that differs has.
    """
    if wanted.dtype.kind in "biu":
        return (found != wanted).ravel().astype(np.float32), np.zeros(wanted.size, np.float32)
    wide = np.float64 if np.float64 in (found.dtype, wanted.dtype) else np.float32
    return found.ravel().astype(wide, copy=False), wanted.ravel().astype(wide, copy=False)


@dataclass
class LargestDifference:
    """The largest absolute difference so far, and its place."""

    gap: float = -1.0
    feed: int = 0
    index: tuple[int, ...] = ()

    def add(self, mine: Array, theirs: Array, shape: tuple[int, ...], feed: int) -> None:
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
    def of(cls, mine: Array, theirs: Array, limits: Limits) -> Differences:
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
class EqualValues:
    """Which share of the integers (or booleans) of an output are equal.

    A value that more than half of the reference's elements have, a background or a padding, says little: where both
    have it, it is left out, so that a map that is empty almost everywhere is judged by what is in it.

    Attributes:
        elements, equal: how many there are, and how many are equal.
        counts: value of the reference -> how many elements have it, and in how many of them both do; of the first
            ``MOST_VALUES`` values.
    """

    elements: int = 0
    equal: int = 0
    counts: dict[Any, tuple[int, int]] = field(default_factory=dict)

    def add(self, found: Array, wanted: Array) -> None:
        """Add values of one feed: flat arrays of integers or booleans, those alone that count."""
        self.elements += wanted.size
        same = found == wanted
        self.equal += int(same.sum())
        values, places = np.unique(wanted, return_inverse=True)
        all_of, same_of = (np.bincount(places.ravel(), weights, len(values)) for weights in (None, same))
        for value, count, both in zip(values.tolist(), all_of.tolist(), same_of.tolist()):
            if value in self.counts or len(self.counts) < MOST_VALUES:
                before = self.counts.get(value, (0, 0))
                self.counts[value] = before[0] + int(count), before[1] + int(both)

    @property
    def share(self) -> float:
        """Of equal values; the background that both have is left out where more than one other value differs."""
        differing = self.elements - self.equal
        most, both = max(self.counts.values(), default=(0, 0))
        if differing > 1 and 2 * most > self.elements:
            return (self.equal - both) / (self.elements - both)
        return self.equal / self.elements if self.elements else 1.0

    @property
    def constant(self) -> bool:
        """Whether all elements of the reference are one value."""
        return len(self.counts) == 1


@dataclass
class OutputMetrics:
    """The metrics of one output. Means are weighted by elements, so chunking does not change them.

    Attributes:
        real: whether the samples are. What random ones change in an output says nothing of what real ones do, so that
            errors are then compared with the output's whole magnitude.
        elements: how many values count.
        product, signal, other, noise: sums of ``x y``, ``x²``, ``y²`` and ``(y - x)²``.
        sizes: statistics of ``|x|``, the mean and the median times the number of elements.
    """

    is_float: bool
    real: bool = True
    elements: int = 0
    elements_passed: bool = True
    max_abs: float = 0.0
    max_rel: float = 0.0
    abs_sum: float = 0.0
    rel_sum: float = 0.0
    median_sum: float = 0.0
    product: float = 0.0
    signal: float = 0.0
    other: float = 0.0
    noise: float = 0.0
    sizes: dict[str, float] = field(default_factory=lambda: {"max": 0.0, "mean": 0.0, "median": 0.0})
    worst: LargestDifference = field(default_factory=LargestDifference)
    departures: Departures = field(default_factory=Departures)
    values: EqualValues = field(default_factory=EqualValues)

    def add_feed(self, found: Array, wanted: Array, counts: Array, limits: Limits, feed: int) -> None:
        """Add one feed's output, with numpy alone.

        Args:
            found, wanted, counts: as ``trtpipe.accuracy.alignment.counted`` gives them, of one shape.
            feed: its number.
        """
        mine, theirs = flat_values(found, wanted)
        self.worst.add(mine, theirs, wanted.shape, feed)
        if self.is_float:
            self.departures.add(mine.reshape(wanted.shape), theirs.reshape(wanted.shape), counts)
        else:
            self.values.add(found[counts], wanted[counts])
        mine, theirs = mine[counts.ravel()], theirs[counts.ravel()]
        if theirs.size:
            self.add(Differences.of(mine, theirs, limits), mine, theirs)

    def add(self, result: ElementDifferences, mine: Array, theirs: Array) -> None:
        """Add one chunk's metrics, of flat values that count. A NaN makes the sums NaN, and NaN never passes."""
        count = theirs.size
        if not count:
            return
        self.elements += count
        self.elements_passed &= bool(result)
        self.max_abs = float(np.maximum(self.max_abs, result.max_absdiff))  # NaN if either is
        self.max_rel = float(np.maximum(self.max_rel, result.max_reldiff))
        self.abs_sum += result.mean_absdiff * count
        self.rel_sum += result.mean_reldiff * count
        self.median_sum += result.median_absdiff * count
        magnitude = np.abs(theirs, dtype=np.float64)
        self.sizes["max"] = float(np.maximum(self.sizes["max"], magnitude.max()))
        self.sizes["mean"] += float(magnitude.sum())
        self.sizes["median"] += float(np.median(magnitude)) * count
        with np.errstate(all="ignore"):
            difference = np.where(mine == theirs, 0.0, mine.astype(np.float64) - theirs)
            self.product += float((mine.astype(np.float64) * theirs).sum())
            self.signal += float(np.square(magnitude).sum())
            self.other += float(np.square(mine, dtype=np.float64).sum())
            self.noise += float(np.square(difference).sum())

    @property
    def count(self) -> int:
        """What sums are divided by."""
        return max(self.elements, 1)

    @property
    def about_mean(self) -> bool:
        """Whether errors are compared with what the input changes: the samples are real, and they change something."""
        return self.real and self.is_float and not self.constant

    @property
    def constant(self) -> bool:
        """Whether no sample changes the reference beyond rounding."""
        if self.is_float:
            return self.departures.power <= ROUNDING**2 * self.signal
        return self.values.constant

    @property
    def mean_abs(self) -> float:
        """Of all differences; of integers, the share that differs."""
        return self.abs_sum / self.count

    @property
    def scale(self) -> float:
        """Mean magnitude of the reference."""
        return self.sizes["mean"] / self.count

    @property
    def spread(self) -> float:
        """Root mean square of what the samples change."""
        return math.sqrt(self.departures.power / self.count)

    @property
    def snr_db(self) -> float:
        """The signal's power over the noise's; the signal is what departs from the mean.

        Where channels vary on different scales, the least of any of these.
        """
        whole = decibel(self.departures.power if self.about_mean else self.signal, self.noise)
        worst = self.worst_channels
        return whole if worst is None else float(np.minimum(whole, decibel(worst.power, worst.noise)))

    @property
    def worst_channels(self) -> Channels | None:
        """Those with the lowest SNR, where channels vary on different scales."""
        if not self.about_mean:
            return None
        return min(self.departures.scales(), key=lambda each: decibel(each.power, each.noise), default=None)

    @property
    def cosine(self) -> float | None:
        """Of what departs from the mean in both; else of the values themselves, which are equal if all are 0.

        ``None`` of integers.
        """
        if not self.is_float:
            return None
        if self.about_mean:
            return self.departures.cosine(self.noise)
        if not self.noise:
            return 1.0
        norm = math.sqrt(self.signal) * math.sqrt(self.other)
        return self.product / norm if norm else 0.0

    @property
    def agreement(self) -> float | None:
        """Share of equal values; ``None`` of floats."""
        return None if self.is_float else self.values.share

    def broken(self, limits: Limits) -> tuple[Criterion, ...]:
        """The criteria that do not hold."""
        return tuple(self._broken(limits))

    def _broken(self, limits: Limits) -> Iterator[Criterion]:
        if not self.is_float:
            if not _at_least(self.agreement, limits.min_agreement):
                yield "agreement"
            return
        if not math.isfinite(self.max_abs) or not self._close(limits):
            yield "difference"
        if math.isfinite(self.signal) and self.noise <= ROUNDING**2 * self.signal:  # also where both are 0
            return
        if not _at_least(self.cosine, limits.min_cosine):
            yield "cosine"
        if not _at_least(self.snr_db, limits.min_snr_db):
            yield "snr"

    def _close(self, limits: Limits) -> bool:
        errors = {"max": self.max_abs, "mean": self.mean_abs, "median": self.median_sum / self.count}
        if limits.stat is None or limits.stat not in errors:
            return self.elements_passed
        whole = beside = self.sizes[limits.stat] / (1 if limits.stat == "max" else self.count)
        if self.about_mean:
            beside = self.departures.largest if limits.stat == "max" else self.spread
        return errors[limits.stat] <= (limits.atol or 0.0) + (limits.rtol or 0.0) * beside + ROUNDING * whole


def _at_least(found: float | None, least: float | None) -> bool:
    """Whether ``found`` reaches ``least``; true where there is no limit."""
    return least is None or (found is not None and found >= least)


def decibel(signal: float, noise: float) -> float:
    """The ratio of two powers in dB; infinite without noise, NaN where either is not finite."""
    if noise == 0:
        return math.inf
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return math.nan
    return 10 * math.log10(signal / noise) if signal else -math.inf
