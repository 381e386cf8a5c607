"""Extremes of a model's tensors on real data: what 16 bits have to hold. ``tensor_ranges.json``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.artifact import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.artifact import Feed
    from trtpipe.autocast.range_probes import Probe

_NOTHING = float(np.finfo(np.float32).max)


class TensorRange(Record):
    """What one float32 tensor was seen to hold, in all runs together.

    Attributes:
        minimum, maximum: its extremes.
        smallest: its smallest magnitude other than 0; ``None`` where no node divides by it, or takes its root or
            logarithm.
        terms: the largest sum of magnitudes that one element was added up from; ``None`` if it is no sum.
    """

    minimum: float
    maximum: float
    smallest: float | None = None
    terms: float | None = None

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(self.maximum, -self.minimum)


class TensorRanges(Record):
    """``tensor_ranges.json``: tensor -> its range on real data. Tensors never computed, or not finite, are left out."""

    samples: int
    tensors: dict[str, TensorRange]


class TensorRangeBuilder:
    """Gathers the numbers of probes over runs of the probed graph.

    Args:
        probes: its outputs that hold probes, and what their elements are.
    """

    def __init__(self, probes: Mapping[str, tuple[Probe, ...]]) -> None:
        self._probes = probes
        self._lowest = {name: np.full(len(each), np.inf) for name, each in probes.items()}
        self._highest = {name: np.full(len(each), -np.inf) for name, each in probes.items()}

    def add(self, found: Feed) -> None:
        """Take note of the probes of one run; several rows are the iterations of a loop."""
        for name, each in self._probes.items():
            rows = np.asarray(found[name], np.float64).reshape(-1, len(each))
            if rows.size:
                self._lowest[name] = np.minimum(self._lowest[name], rows.min(axis=0))
                self._highest[name] = np.maximum(self._highest[name], rows.max(axis=0))

    def finish(self, samples: int) -> TensorRanges:
        """What was found in ``samples`` samples."""
        numbers: dict[str, dict[str, float]] = {}
        for name, each in self._probes.items():
            for index, probe in enumerate(each):
                low = probe.quantity in ("minimum", "smallest")
                value = float((self._lowest if low else self._highest)[name][index])
                numbers.setdefault(probe.tensor, {})[probe.quantity] = value
        tensors = {
            tensor: TensorRange(
                minimum=found["minimum"],
                maximum=found["maximum"],
                smallest=_finite(found.get("smallest")),
                terms=_finite(found.get("terms")),
            )
            for tensor, found in sorted(numbers.items())
            if math.isfinite(found["minimum"]) and math.isfinite(found["maximum"])
        }
        return TensorRanges(samples=samples, tensors=tensors)


def _finite(value: float | None) -> float | None:
    """``None`` for what was not asked for, or not found; a sum beyond float32 stays as large as a number can be."""
    if value is None or math.isnan(value) or value == -math.inf:
        return None
    return None if value == _NOTHING else min(value, _NOTHING)
