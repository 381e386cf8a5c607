"""A tensor's histogram as a density of magnitudes: how much of it, and of its moments, lies below a magnitude.

Inside one bin (never wider than 0.8 % of its magnitude) values count as evenly spread. Everything is computed from
integer counts in one fixed order, so equal statistics give equal numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trtpipe.calibration.statistics import TensorStatistics


@dataclass(frozen=True, eq=False)
class Density:
    """Cumulative sums over the magnitudes that are not 0.

    Attributes:
        magnitudes: float64[2 * filled bins], ascending: lower and upper edge of every filled bin, cut to the
            smallest and the largest magnitude seen.
        moments: float64[3, 2 * filled bins]: sums of 1, x and x**2 over all magnitudes x up to that edge.
    """

    magnitudes: np.ndarray
    moments: np.ndarray

    @property
    def totals(self) -> np.ndarray:
        """float64[3]: the sums over everything."""
        return self.moments[:, -1] if self.magnitudes.size else np.zeros(3)

    @property
    def median(self) -> float:
        """The magnitude that half of the values lie below; 0 where there are none."""
        if not self.magnitudes.size:
            return 0.0
        return float(np.interp(self.totals[0] / 2, self.moments[0], self.magnitudes))

    def below(self, magnitudes: np.ndarray, moment: int) -> np.ndarray:
        """The sum of x**moment over all magnitudes x up to each of ``magnitudes`` (float64, any shape)."""
        if not self.magnitudes.size:
            return np.zeros(magnitudes.shape)
        found: np.ndarray = np.interp(magnitudes, self.magnitudes, self.moments[moment], left=0.0)
        return found


def density_of(tensor: TensorStatistics) -> Density:
    """The density of a tensor's magnitudes, zeros left out."""
    counts = tensor.histogram.copy()
    counts[0] -= tensor.zeros
    filled = np.flatnonzero(counts)
    bits = filled.astype(np.uint32) << np.uint32(16)
    edges = np.stack([bits, bits + np.uint32(1 << 16)]).view(np.float32).astype(np.float64)
    low, high = np.clip(edges, tensor.smallest, tensor.largest)
    mass = counts[filled].astype(np.float64)
    middle = (low + high) / 2
    each = np.stack([mass, mass * middle, mass * (middle**2 + (high - low) ** 2 / 12)])
    sums = np.concatenate([np.zeros((3, 1)), np.cumsum(each, axis=1)], axis=1)
    return Density(_woven(low, high), np.stack([_woven(moment[:-1], moment[1:]) for moment in sums]))


def _woven(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """``first[0], second[0], first[1], second[1], ...``"""
    return np.stack([first, second], axis=1).reshape(-1)
