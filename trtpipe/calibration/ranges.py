"""From statistics to ranges: the amax that each tensor's scale covers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from trtpipe.artifact import Record
from trtpipe.calibration.corrections import Corrections
from trtpipe.calibration.data_summary import DataSummary
from trtpipe.calibration.methods import METHODS, CalibrationMethod, quantizer_of
from trtpipe.calibration.statistics import CumulativeHistogram
from trtpipe.config.formats import INT8
from trtpipe.config.methods import Method, SingleMethod
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.calibration.statistics import Statistics, TensorStatistics
    from trtpipe.config.formats import Format


class TensorRange(Record):
    """The range of one tensor.

    Attributes:
        amax: the magnitude that becomes the largest quantized value; a float32 value, 0 only for a tensor that
            never held anything but zeros.
        method: the calibration method.
        percentile: its parameter, 0 to 100; ``None`` where the method has none.
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
        method: the calibration method asked for.
        percentile: its parameter, 0 to 100; ``None`` where the method has none.
        samples: samples the ranges are based on.
        data_summary: of the calibration data; ``None`` if it is unknown.
        tensors: tensor name -> its range.
        unseen: tensors that never held a value, for example in a branch that was never taken; their nodes are kept in
            higher precision.
        not_quantizable: tensors too wide for 8 bits -> why; their nodes are kept in higher precision.
        corrections: PTQ corrections; empty if none was found, or looked for.
        corrections_failed: why looking for them failed; empty where it did not.
    """

    SCHEMA: ClassVar[int] = 3

    method: Method
    percentile: float | None = None
    samples: int
    data_summary: DataSummary | None = None
    tensors: dict[str, TensorRange]
    unseen: tuple[str, ...] = ()
    not_quantizable: dict[str, str] = {}
    corrections: Corrections = Corrections()
    corrections_failed: str = ""


#: How far below the magnitude that is rounded to 0 a tensor's median may lie. For INT8 that is 1/1016 of the range: an
#: eighth of a step. Of some 200 tensors of real models a spectrogram comes nearest, with 1/560.
_TYPICAL = 4.0


def ranges_from_statistics(
    statistics: Statistics, method: SingleMethod, percentile: float, precision: Format = INT8
) -> Ranges:
    """Every tensor's range by one calibration method.

    Args:
        statistics: of all tensors that get a scale.
        method: a name in METHODS.
        percentile: the calibration percentile (above 50, at most 100).
        precision: the format whose largest value ``amax`` becomes.

    Raises:
        InputError: no tensor held any value, or one held NaN or infinity.
    """
    choice = CalibrationMethod(method, percentile if method == "percentile" else None)
    seen, unseen = split_unseen(statistics)
    found = {name: range_of(name, tensor, choice, precision) for name, tensor in seen.items()}
    tensors, not_quantizable = split_not_quantizable(statistics, found, precision)
    return Ranges(
        method=method,
        percentile=choice.percentile,
        samples=statistics.samples,
        data_summary=statistics.data_summary,
        tensors=tensors,
        unseen=unseen,
        not_quantizable=not_quantizable,
    )


def split_not_quantizable(
    statistics: Statistics, ranges: Mapping[str, TensorRange], precision: Format
) -> tuple[dict[str, TensorRange], dict[str, str]]:
    """The ranges that can be quantized to 8 bits; and of the other tensors, why not.

    One scale has to cover a tensor's largest values. Where these are far above all others, such as the fill value of a
    mask, all others would be rounded to 0, and statistics cannot tell whether they matter. (The method ``auto`` can: it
    compares outputs.)
    """
    dead = quantizer_of(precision).dead
    refused = {}
    for name, found in ranges.items():
        typical = CumulativeHistogram.of(statistics.tensors[name]).median
        if 0 < typical * _TYPICAL < dead * found.amax:
            refused[name] = (
                f"the range of {name!r} is {found.amax:.3g}, the median of its nonzero magnitudes {typical:.3g}: "
                f"{precision} would round most values to 0"
            )
    return {name: found for name, found in ranges.items() if name not in refused}, refused


def split_unseen(statistics: Statistics) -> tuple[dict[str, TensorStatistics], tuple[str, ...]]:
    """The tensors that held values, sorted by name; and the names of those that never did.

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


def range_of(name: str, tensor: TensorStatistics, choice: CalibrationMethod, precision: Format) -> TensorRange:
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
