"""8-bit quantization error: the values each format can hold, and the error expected for a histogram."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import floor, log2
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trtpipe.calibration.statistics import CumulativeHistogram
    from trtpipe.config.formats import Format


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
