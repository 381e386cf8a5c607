"""The ways to choose a range from a tensor's statistics. A new one is a function and a line in METHODS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from trtpipe.calibration.histogram import density_of
from trtpipe.calibration.quantizer import quantizer_of
from trtpipe.config.methods import SingleMethod

if TYPE_CHECKING:
    from trtpipe.calibration.statistics import TensorStatistics
    from trtpipe.config.formats import Format

#: TensorRT's entropy calibration: bins up to the largest magnitude, and levels they are merged into.
ENTROPY_BINS = 2048
ENTROPY_LEVELS = 128
#: Numbers of bins that are compared at a time: what belongs to them stays in the processor's second cache.
_ENTROPY_BLOCK = 120
#: Bins in a level at most.
_WIDEST = -(-ENTROPY_BINS // ENTROPY_LEVELS)

#: Shares of the largest magnitude that ``mse`` tries, descending from 1.
_SHARES = np.exp2(-np.arange(16 * 32 + 1) / 32)


@dataclass(frozen=True)
class Choice:
    """A method with all it needs to know.

    Attributes:
        method: a name in METHODS.
        percentile: share of the values to keep, in percent; only ``percentile`` reads it.
    """

    method: SingleMethod
    percentile: float | None = None

    def __str__(self) -> str:
        return self.method if self.percentile is None else f"{self.method} {self.percentile:g}"


#: Every method worth comparing.
CHOICES: tuple[Choice, ...] = (
    Choice("mse"),
    Choice("percentile", 99.99),
    Choice("percentile", 99.999),
    Choice("percentile", 99.9999),
    Choice("max"),
    Choice("entropy"),
    Choice("percentile", 99.9),
)
#: What ``auto`` chooses from; among equals it takes the first.
CANDIDATES: tuple[Choice, ...] = CHOICES[:5]
#: These clip so much that they can lose everything on data a little louder than the calibration data: ``auto`` takes
#: them only for a gain that large that the others must have failed (see docs/calibration.md).
DARING: tuple[Choice, ...] = CHOICES[5:]

#: A method gets a tensor's statistics (at least one value), the percentile and the format, and gives the amax.
RangeMethod: TypeAlias = "Callable[[TensorStatistics, float, Format], float]"


def largest(tensor: TensorStatistics, percentile: float, precision: Format) -> float:
    """The exact largest magnitude."""
    del percentile, precision
    return tensor.largest


def clipped(tensor: TensorStatistics, percentile: float, precision: Format) -> float:
    """The magnitude below which ``percentile`` % of all values lie, zeros included.

    It is what ``numpy.percentile`` gives for the magnitudes themselves, up to the resolution of the histogram:
    the relative error is at most 2**-7 (0.8 %), and none at 100 % or where all values have one magnitude.
    Below 2**-126 the error is at most 2**-133 instead.
    """
    del precision
    rank = percentile / 100 * (tensor.count - 1)
    below = int(rank)
    cumulative = np.cumsum(tensor.filled)
    low, high = (_magnitude(tensor, cumulative, min(below + step, tensor.count - 1)) for step in (0, 1))
    return low + (rank - below) * (high - low)


def least_error(tensor: TensorStatistics, percentile: float, precision: Format) -> float:
    """The amax with the least expected squared error, among 32 an octave over 16 octaves below the largest magnitude.

    If several are equally good, the largest of them.
    """
    del percentile
    if not tensor.largest:
        return 0.0
    density = density_of(tensor)
    candidates = tensor.largest * _SHARES
    return float(candidates[np.argmin(quantizer_of(precision).expected_error(density, candidates))])


def entropy(tensor: TensorStatistics, percentile: float, precision: Format) -> float:
    """TensorRT's entropy calibration: the amax whose 128 levels lose least information on the distribution.

    The magnitudes are binned into 2048 equal bins up to the largest one. For every i from 128, the first i bins (the
    rest added to the last of them) are compared with the same bins merged into 128 levels and spread evenly over
    those that are not empty; the i with the least Kullback-Leibler divergence gives the amax (i + 0.5) bins.
    Zeros are left out: they are exact in any scale. (Migacz, "8-bit inference with TensorRT", GTC 2017.)
    """
    del percentile, precision
    if not tensor.largest:
        return 0.0
    density = density_of(tensor)
    edges = np.linspace(0, tensor.largest, ENTROPY_BINS + 1)
    divergences = _divergences(np.diff(density.below(edges, 0)))
    best = ENTROPY_LEVELS + int(np.argmin(divergences))
    return min((best + 0.5) * tensor.largest / ENTROPY_BINS, tensor.largest)


METHODS: Mapping[SingleMethod, RangeMethod] = MappingProxyType(
    {"max": largest, "percentile": clipped, "mse": least_error, "entropy": entropy}
)


def _divergences(bins: np.ndarray) -> np.ndarray:
    """D(P || Q) in nats for every number of bins kept, from 128 to all; infinite where Q cannot stand for P.

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
    blocks = (_places()[start : start + _ENTROPY_BLOCK] for start in range(0, len(kept), _ENTROPY_BLOCK))
    crossed = np.concatenate([levels.take(block).sum(axis=1) for block in blocks])
    with np.errstate(divide="ignore", invalid="ignore"):
        start = kept * (ENTROPY_LEVELS - 1) // ENTROPY_LEVELS  # of the last level, which also takes what is beyond
        top = mass[kept] - mass[start]
        own = top + beyond
        crossed += np.where(own > 0, own * np.log(top / (filled[kept] - filled[start])), 0.0)
        entropies = information[kept] - _times_log(last) + _times_log(last + beyond)
        divergences = (entropies - crossed) / total - np.log(total) + np.log(mass[kept])
    divergences[(beyond > 0) & (last == 0)] = np.inf
    return np.where(np.isnan(divergences), np.inf, divergences)


def _levels(mass: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """S log(S / N) of every level there can be, float64[first bin, width - 1]; 0 where it is empty.

    Whatever number of bins is kept, levels begin and end at the same few places: this is a seventh of the logarithms.

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
def _places() -> np.ndarray:
    """intp[numbers of bins kept, 127]: where all levels but the last of each are in ``_levels``, flattened."""
    kept = np.arange(ENTROPY_LEVELS, ENTROPY_BINS + 1)
    edges = kept[:, np.newaxis] * np.arange(ENTROPY_LEVELS) // ENTROPY_LEVELS
    places: np.ndarray = edges[:, :-1] * _WIDEST + np.diff(edges, axis=1) - 1
    return places


def _times_log(values: np.ndarray) -> np.ndarray:
    """x log x, and 0 for 0."""
    return values * np.log(np.where(values > 0, values, 1.0))


def _magnitude(tensor: TensorStatistics, cumulative: np.ndarray, rank: int) -> float:
    """The magnitude number ``rank`` (from 0) in ascending order; within its bin, magnitudes count as evenly spread."""
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
