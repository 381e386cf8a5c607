"""Calibration methods: from a tensor's statistics to its amax. A new one is a function and a line in METHODS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import floor, log2
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from trtpipe.calibration.statistics import CumulativeHistogram
from trtpipe.config.methods import SingleMethod

if TYPE_CHECKING:
    from trtpipe.calibration.statistics import TensorStatistics
    from trtpipe.config.formats import Format

#: TensorRT's entropy calibration: bins up to the largest magnitude, and levels they are merged into.
ENTROPY_BINS = 2048
ENTROPY_LEVELS = 128
#: Numbers of bins that are compared at a time: their data stays in the L2 cache.
_ENTROPY_BLOCK = 120
#: Bins in a level at most.
_WIDEST = -(-ENTROPY_BINS // ENTROPY_LEVELS)

#: Fractions of the largest magnitude that ``mse`` tries, descending from 1.
_FRACTIONS = np.exp2(-np.arange(16 * 32 + 1) / 32)


@dataclass(frozen=True)
class CalibrationMethod:
    """A calibration method and its parameter.

    Attributes:
        method: a name in METHODS.
        percentile: the calibration percentile, 0 to 100; only ``percentile`` reads it.
    """

    method: SingleMethod
    percentile: float | None = None

    def __str__(self) -> str:
        return self.method if self.percentile is None else f"{self.method} {self.percentile:g}"


#: The methods that reports and ``auto`` compare.
COMPARED_METHODS: tuple[CalibrationMethod, ...] = (
    CalibrationMethod("mse"),
    CalibrationMethod("percentile", 99.99),
    CalibrationMethod("percentile", 99.999),
    CalibrationMethod("percentile", 99.9999),
    CalibrationMethod("max"),
    CalibrationMethod("entropy"),
    CalibrationMethod("percentile", 99.9),
)
#: What ``auto`` selects from; on a tie, the first.
AUTO_METHODS: tuple[CalibrationMethod, ...] = COMPARED_METHODS[:5]
#: These clip so much that they can fail on data slightly larger than the calibration data: ``auto`` selects them only
#: for a very large gain (see docs/calibration.md).
AGGRESSIVE_METHODS: tuple[CalibrationMethod, ...] = COMPARED_METHODS[5:]


@dataclass(frozen=True)
class Quantizer:
    """A symmetric 8-bit format, in units of its largest value.

    Attributes:
        dead: magnitudes below become 0: half the smallest step.
        edges: upper ends of the segments of equal step, ascending; the last one is 1.
        steps: the distance between two values in each segment.
    """

    dead: float
    edges: tuple[float, ...]
    steps: tuple[float, ...]

    def expected_error(self, histogram: CumulativeHistogram, amax: np.ndarray) -> np.ndarray:
        """The expected sum of squared errors if ``amax`` becomes the largest value the format holds.

        A value x errs by x itself in the dead zone, by step**2 / 12 on average where values are rounded, and by
        x - amax where it is clipped (Wu et al. 2020, arXiv:2004.09602, section 3.2; Bennett 1948 for step**2 / 12).

        Args:
            histogram: of the magnitudes.
            amax: float64[n], candidates above 0.

        Returns:
            float64[n].
        """
        bounds = np.outer([self.dead, *self.edges], amax)
        counts = np.diff(histogram.below(bounds, 0), axis=0)
        rounded = np.sum(counts * (np.outer(self.steps, amax) ** 2 / 12), axis=0)
        above = [histogram.totals[power] - histogram.below(amax, power) for power in (0, 1, 2)]
        clipped = above[2] - 2 * amax * above[1] + amax**2 * above[0]
        error: np.ndarray = histogram.below(bounds[0], 2) + rounded + np.maximum(clipped, 0)
        return error


@cache
def quantizer_of(form: Format) -> Quantizer:
    """The values ``form`` can hold.

    Floating-point values are equally far apart up to twice the smallest normal one, and from there on twice as far with
    every power of two.
    """
    largest = form.largest
    if form.kind == "integer":
        return Quantizer(dead=0.5 / largest, edges=(1.0,), steps=(1 / largest,))
    first, last = round(log2(form.normal)) + 1, floor(log2(largest))
    edges = (*(2.0**power / largest for power in range(first, last + 1)), 1.0)
    steps = tuple(2.0 ** (power - 1 - form.mantissa) / largest for power in range(first, last + 2))
    return Quantizer(dead=2.0 ** (first - 2 - form.mantissa) / largest, edges=edges, steps=steps)


#: Takes a tensor's statistics (at least one value), the percentile and the format; returns the amax.
AmaxFunction: TypeAlias = "Callable[[TensorStatistics, float, Format], float]"


def max_amax(tensor: TensorStatistics, percentile: float, precision: Format) -> float:
    """The largest magnitude, exactly."""
    del percentile, precision
    return tensor.largest


def percentile_amax(tensor: TensorStatistics, percentile: float, precision: Format) -> float:
    """The magnitude below which ``percentile`` % of all values lie, zeros included.

    Equal to ``numpy.percentile`` of the magnitudes up to the resolution of the histogram: the relative error is at most
    2**-7 (0.8 %), and none at 100 % or where all values have one magnitude. Below 2**-126 the error is at most 2**-133.
    """
    del precision
    rank = percentile / 100 * (tensor.count - 1)
    below = int(rank)
    cumulative = np.cumsum(tensor.filled)
    low, high = (_magnitude(tensor, cumulative, min(below + step, tensor.count - 1)) for step in (0, 1))
    return low + (rank - below) * (high - low)


def mse_amax(tensor: TensorStatistics, percentile: float, precision: Format) -> float:
    """The amax with the least expected squared error, among 32 per octave over 16 octaves below the largest magnitude.

    On a tie, the largest.
    """
    del percentile
    if not tensor.largest:
        return 0.0
    histogram = CumulativeHistogram.of(tensor)
    candidates = tensor.largest * _FRACTIONS
    return float(candidates[np.argmin(quantizer_of(precision).expected_error(histogram, candidates))])


def entropy_amax(tensor: TensorStatistics, percentile: float, precision: Format) -> float:
    """TensorRT's entropy calibration: the amax whose 128 levels lose the least information about the distribution.

    The magnitudes are binned into 2048 equal bins up to the largest one. For every i from 128, the first i bins (the
    rest added to the last of them) are compared with the same bins merged into 128 levels and spread evenly over
    those that are not empty; the i with the least Kullback-Leibler divergence gives the amax (i + 0.5) bins.
    Zeros are left out: they are exact in any scale. (Migacz, "8-bit inference with TensorRT", GTC 2017.)
    """
    del percentile, precision
    if not tensor.largest:
        return 0.0
    histogram = CumulativeHistogram.of(tensor)
    edges = np.linspace(0, tensor.largest, ENTROPY_BINS + 1)
    divergences = _divergences(np.diff(histogram.below(edges, 0)))
    best = ENTROPY_LEVELS + int(np.argmin(divergences))
    return min((best + 0.5) * tensor.largest / ENTROPY_BINS, tensor.largest)


METHODS: Mapping[SingleMethod, AmaxFunction] = MappingProxyType(
    {"max": max_amax, "percentile": percentile_amax, "mse": mse_amax, "entropy": entropy_amax}
)


def _divergences(bins: np.ndarray) -> np.ndarray:
    """D(P || Q) in nats for every number of bins kept, from 128 to all; infinite where Q is 0 and P is not.

    With P's bins p, a level m of sum S and N bins that are not empty has q = S / N in each of those, so that
    D = sum(p log p) - sum over m of (sum of p in m) * log(S / N); the sums come from cumulative ones.
    """
    kept = np.arange(ENTROPY_LEVELS, ENTROPY_BINS + 1)
    total = np.cumsum(bins)[-1]
    mass, filled, information = (
        np.concatenate([[0.0], np.cumsum(each)]) for each in (bins, bins > 0, _times_log(bins))
    )
    beyond, last = total - mass[kept], bins[kept - 1]
    levels = _levels(mass, filled)
    blocks = (_level_indices()[start : start + _ENTROPY_BLOCK] for start in range(0, len(kept), _ENTROPY_BLOCK))
    crossed = np.concatenate([levels.take(block).sum(axis=1) for block in blocks])
    with np.errstate(divide="ignore", invalid="ignore"):
        start = kept * (ENTROPY_LEVELS - 1) // ENTROPY_LEVELS  # of the last level, which also holds the rest
        top = mass[kept] - mass[start]
        own = top + beyond
        crossed += np.where(own > 0, own * np.log(top / (filled[kept] - filled[start])), 0.0)
        entropies = information[kept] - _times_log(last) + _times_log(last + beyond)
        divergences = (entropies - crossed) / total - np.log(total) + np.log(mass[kept])
    divergences[(beyond > 0) & (last == 0)] = np.inf
    return np.where(np.isnan(divergences), np.inf, divergences)


def _levels(mass: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """S log(S / N) of every level there can be, float64[first bin, width - 1]; 0 where it is empty.

    Levels begin and end at the same few indices for every number of bins kept: this saves six of seven logarithms.

    Args:
        mass, filled: cumulative mass and number of filled bins, float64[bins + 1].
    """
    begin = np.arange(ENTROPY_BINS)[:, np.newaxis]
    end = np.minimum(begin + np.arange(1, _WIDEST + 1), ENTROPY_BINS)
    sums, counts = mass[end] - mass[begin], filled[end] - filled[begin]
    with np.errstate(divide="ignore", invalid="ignore"):
        levels: np.ndarray = np.where(sums > 0, sums * np.log(sums / counts), 0.0)
    return levels


@cache
def _level_indices() -> np.ndarray:
    """intp[numbers of bins kept, 127]: indices of all levels but the last into ``_levels``, flattened."""
    kept = np.arange(ENTROPY_LEVELS, ENTROPY_BINS + 1)
    edges = kept[:, np.newaxis] * np.arange(ENTROPY_LEVELS) // ENTROPY_LEVELS
    indices: np.ndarray = edges[:, :-1] * _WIDEST + np.diff(edges, axis=1) - 1
    return indices


def _times_log(values: np.ndarray) -> np.ndarray:
    """x log x, and 0 for 0."""
    return values * np.log(np.where(values > 0, values, 1.0))


def _magnitude(tensor: TensorStatistics, cumulative: np.ndarray, rank: int) -> float:
    """The magnitude number ``rank`` (from 0) in ascending order, if those of a bin are evenly distributed in it."""
    if rank >= tensor.count - 1:
        return tensor.largest
    if rank < tensor.zeros:
        return 0.0
    number = int(np.searchsorted(cumulative, rank, side="right"))
    before = int(cumulative[number - 1]) if number else tensor.zeros
    inside = (rank - before + 0.5) / (int(cumulative[number]) - before)
    edges = np.array([number << 16, (number + 1) << 16], dtype=np.uint32).view(np.float32)
    low, high = max(float(edges[0]), tensor.smallest), min(float(edges[1]), tensor.largest)
    return low + inside * (high - low)
