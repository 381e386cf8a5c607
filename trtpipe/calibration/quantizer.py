"""8-bit quantization error: the values each format can hold, and the error expected for a histogram."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.calibration.statistics import CumulativeHistogram

EightBit: TypeAlias = Literal["int8", "fp8"]


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


def _float8() -> Quantizer:
    """E4M3: steps of 2**-9 up to 2**-5, then doubled with every power of two, up to 448."""
    powers = range(-5, 9)
    edges = (*(2.0**power / 448 for power in powers), 1.0)
    steps = tuple(2.0 ** (power - 4) / 448 for power in (*powers, 9))
    return Quantizer(dead=2.0**-10 / 448, edges=edges, steps=steps)


QUANTIZERS: Mapping[EightBit, Quantizer] = MappingProxyType(
    {"int8": Quantizer(dead=0.5 / 127, edges=(1.0,), steps=(1 / 127,)), "fp8": _float8()}
)
