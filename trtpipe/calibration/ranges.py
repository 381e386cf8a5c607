"""From statistics to ranges: how large a magnitude each tensor's scale has to cover."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field

from trtpipe.artifact import Record
from trtpipe.calibration.account import DataAccount
from trtpipe.calibration.statistics import Statistics, TensorStatistics
from trtpipe.errors import InputError
from trtpipe.recipe import Method


class TensorRange(Record):
    """The range of one tensor.

    Attributes:
        amax: the magnitude that becomes the largest quantised value; a float32 value, 0 only for a tensor that
            never held anything but zeros.
        method: what chose it.
        minimum, maximum: the exact extremes seen.
        note: what is unusual about it; mostly empty.
    """

    amax: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    method: Method
    minimum: Annotated[float, Field(allow_inf_nan=False)]
    maximum: Annotated[float, Field(allow_inf_nan=False)]
    note: str = ""


class Ranges(Record):
    """The ``ranges.json``.

    Attributes:
        method: the method asked for.
        percentile: its parameter, in percent; ``None`` where the method has none.
        samples: samples the ranges rest on.
        account: the data they were found on; ``None`` if nothing is known of it.
        tensors: tensor name -> its range.
    """

    schema_version: Literal[1] = 1
    method: Method
    percentile: float | None = None
    samples: int
    account: DataAccount | None = None
    tensors: dict[str, TensorRange]


#: A method gets a tensor's statistics and the percentile, and gives the amax.
RangeMethod: TypeAlias = Callable[[TensorStatistics, float], float]


def largest(tensor: TensorStatistics, percentile: float) -> float:
    """The exact largest magnitude; ``percentile`` plays no part."""
    del percentile
    return tensor.largest


def clipped(tensor: TensorStatistics, percentile: float) -> float:
    """The magnitude below which ``percentile`` % of all values lie, zeros included.

    It is what ``numpy.percentile`` gives for the magnitudes themselves, up to the resolution of the histogram:
    the relative error is at most 2**-7 (0.8 %), and none at 100 % or where all values have one magnitude.
    Below 2**-126 the error is at most 2**-133 instead.
    """
    rank = percentile / 100 * (tensor.count - 1)
    below = int(rank)
    cumulative = np.cumsum(tensor.histogram)
    low, high = (_magnitude(tensor, cumulative, min(below + step, tensor.count - 1)) for step in (0, 1))
    return low + (rank - below) * (high - low)


METHODS: Mapping[Method, RangeMethod] = {"max": largest, "percentile": clipped}

#: Methods for which ``percentile`` means something.
_PARAMETRIC = frozenset({"percentile"})


def derive_ranges(statistics: Statistics, method: Method, percentile: float) -> Ranges:
    """Choose every tensor's range.

    Args:
        statistics: of all tensors that get a scale.
        method: a name in METHODS.
        percentile: share of the values a clipping method keeps, in percent (above 50, at most 100).

    Raises:
        InputError: a tensor held no values, or NaN or infinity.
    """
    tensors = {name: _range(name, tensor, method, percentile) for name, tensor in sorted(statistics.tensors.items())}
    return Ranges(
        method=method,
        percentile=percentile if method in _PARAMETRIC else None,
        samples=statistics.samples,
        account=statistics.account,
        tensors=tensors,
    )


def _range(name: str, tensor: TensorStatistics, method: Method, percentile: float) -> TensorRange:
    if tensor.nonfinite:
        raise InputError(
            f"tensor {name!r} held NaN or infinity {tensor.nonfinite} times", "find the sample that causes it"
        )
    if not tensor.count:
        raise InputError(f"tensor {name!r} held no values", "calibrate on data that reaches this part of the model")
    amax = float(np.float32(min(METHODS[method](tensor, percentile), tensor.largest)))
    note = ""
    if tensor.largest == 0:
        note = "always 0"
    elif amax == 0:
        amax = tensor.largest
        note = f"more than {percentile:g} % of the values are 0, so the largest magnitude is used"
    return TensorRange(amax=amax, method=method, minimum=tensor.minimum, maximum=tensor.maximum, note=note)


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
