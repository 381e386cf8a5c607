"""From statistics to ranges: how large a magnitude each tensor's scale has to cover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from trtpipe.artifact import Record
from trtpipe.calibration.account import DataAccount
from trtpipe.calibration.methods import METHODS, Choice
from trtpipe.calibration.repairs import Repairs
from trtpipe.errors import InputError
from trtpipe.methods import Method, SingleMethod

if TYPE_CHECKING:
    from trtpipe.calibration.quantiser import EightBit
    from trtpipe.calibration.statistics import Statistics, TensorStatistics


class TensorRange(Record):
    """The range of one tensor.

    Attributes:
        amax: the magnitude that becomes the largest quantised value; a float32 value, 0 only for a tensor that
            never held anything but zeros.
        method: what chose it.
        percentile: its parameter, in percent; ``None`` where the method has none.
        minimum, maximum: the exact extremes seen.
        note: what is unusual about it; mostly empty.
    """

    amax: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    method: SingleMethod
    percentile: float | None = None
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
        unseen: tensors that never held a value, for example in a branch that was never taken; their nodes stay in
            high precision.
        repairs: what lessens the output's error besides; empty if nothing was found, or looked for.
    """

    schema_version: Literal[1] = 1
    method: Method
    percentile: float | None = None
    samples: int
    account: DataAccount | None = None
    tensors: dict[str, TensorRange]
    unseen: tuple[str, ...] = ()
    repairs: Repairs = Repairs()


#: Methods for which ``percentile`` means something.
_PARAMETRIC = frozenset({"percentile"})


def derive_ranges(
    statistics: Statistics, method: SingleMethod, percentile: float, precision: EightBit = "int8"
) -> Ranges:
    """Choose every tensor's range by one method.

    Args:
        statistics: of all tensors that get a scale.
        method: a name in METHODS.
        percentile: share of the values a clipping method keeps, in percent (above 50, at most 100).
        precision: the format whose largest value ``amax`` becomes.

    Raises:
        InputError: no tensor held any value, or one held NaN or infinity.
    """
    choice = Choice(method, percentile if method in _PARAMETRIC else None)
    seen, unseen = split_unseen(statistics)
    tensors = {name: range_of(name, tensor, choice, precision) for name, tensor in seen.items()}
    return Ranges(
        method=method,
        percentile=choice.percentile,
        samples=statistics.samples,
        account=statistics.account,
        tensors=tensors,
        unseen=unseen,
    )


def split_unseen(statistics: Statistics) -> tuple[dict[str, TensorStatistics], tuple[str, ...]]:
    """The tensors that held values, in order of their names; and the names of those that never did.

    Raises:
        InputError: there are tensors, but none held a value.
    """
    seen = {name: tensor for name, tensor in sorted(statistics.tensors.items()) if tensor.count or tensor.nonfinite}
    unseen = tuple(sorted(statistics.tensors.keys() - seen.keys()))
    if unseen and not seen:
        raise InputError(
            f"tensor {unseen[0]!r} held no values", "calibrate on data that reaches this part of the model"
        )
    return seen, unseen


def range_of(name: str, tensor: TensorStatistics, choice: Choice, precision: EightBit) -> TensorRange:
    """The range of one tensor that held at least one value.

    Raises:
        InputError: it held NaN or infinity.
    """
    if tensor.nonfinite:
        raise InputError(
            f"tensor {name!r} held NaN or infinity {tensor.nonfinite} times", "find the sample that causes it"
        )
    percentile = 100.0 if choice.percentile is None else choice.percentile
    amax = float(np.float32(min(METHODS[choice.method](tensor, percentile, precision), tensor.largest)))
    note = ""
    if tensor.largest == 0:
        note = "always 0"
    elif amax == 0:
        amax = tensor.largest
        note = f"more than {percentile:g} % of the values are 0, so the largest magnitude is used"
    return TensorRange(
        amax=amax,
        method=choice.method,
        percentile=choice.percentile,
        minimum=tensor.minimum,
        maximum=tensor.maximum,
        note=note,
    )
