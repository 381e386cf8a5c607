"""8-bit formats, and weights in them.

Symmetric, zero point 0: ``q = clip(round(x / s), -127, 127)`` with ``s = amax / 127`` for INT8; for FP8 (E4M3)
``s = amax / 448`` and the value is rounded to the nearest representable one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.passes.half_types import HALVES

if TYPE_CHECKING:
    from trtpipe.calibration.quantiser import EightBit
    from trtpipe.passes.half_types import HalfType
    from trtpipe.recipe import WeightMethod


@dataclass(frozen=True)
class Format:
    """A type with 8 bits: its ONNX type, largest magnitude, and whether weights have a scale for each channel."""

    dtype: ir.DataType
    largest: float
    per_channel: bool


FORMATS: dict[EightBit, Format] = {
    "int8": Format(ir.DataType.INT8, 127.0, per_channel=True),
    "fp8": Format(ir.DataType.FLOAT8E4M3FN, 448.0, per_channel=False),
}
#: Shares of a channel's largest magnitude that ``mse`` tries, descending: 1 to 0.5.
_SHARES = np.linspace(1, 0.5, 32, dtype=np.float32)


def largest_value(precision: EightBit) -> float:
    """The largest value of the format: a scale is amax divided by it."""
    return FORMATS[precision].largest


def quantise_weight(
    array: np.ndarray,
    axis: int | None,
    precision: EightBit,
    method: WeightMethod = "max",
    scales: HalfType | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Quantise a float32 weight symmetrically.

    Args:
        array: the weight, any shape.
        axis: the axis with one scale per index; ``None`` for one scale in all.
        precision: ``int8`` or ``fp8``.
        method: ``max`` covers the largest magnitude of every channel; ``mse`` clips each channel where that lessens
            its squared error, measured for every one of 32 shares of its largest magnitude.
        scales: the type that will hold the scales: they are rounded to it before the weight is divided by them.

    Returns:
        The 8-bit array of the same shape, and float32 scales: shape ``[array.shape[axis]]`` or ``[]``.
    """
    form = FORMATS[precision]
    rows = array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    scale = safe_scale(np.abs(rows).max(axis=1), form.largest)
    if method == "mse":
        scale = np.concatenate([_least_error(row, limit, form) for row, limit in zip(rows, scale, strict=True)])
    scale = storable(scale, scales)
    shaped = scale.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    quantised = _steps(array, shaped, form).astype(form.dtype.numpy())
    return quantised, scale.reshape(() if axis is None else -1)


def _least_error(row: np.ndarray, largest: np.float32, form: Format) -> np.ndarray:
    """float32[1]: the scale of one channel with the least squared error; of equally good ones the largest."""
    scales = largest * _SHARES
    errors = [np.sum((row - _rounded(row, scale, form) * float(scale)) ** 2) for scale in scales]
    best: np.ndarray = np.maximum(scales[[np.argmin(errors)]], np.finfo(np.float32).tiny)
    return best


def _rounded(row: np.ndarray, scale: np.float32, form: Format) -> np.ndarray:
    return _steps(row, scale, form).astype(form.dtype.numpy()).astype(np.float64)


def _steps(array: np.ndarray, scale: np.ndarray | np.float32, form: Format) -> np.ndarray:
    """``array`` in units of ``scale``, clipped; in whole steps for INT8."""
    steps: np.ndarray = np.clip(array / scale, -form.largest, form.largest)
    if form.dtype == ir.DataType.INT8:
        np.rint(steps, out=steps)
    return steps


def storable(scale: np.ndarray, scales: HalfType | None) -> np.ndarray:
    """Scales as a 16-bit type holds them, in float32: rounded, and no subnormal ones, which would be far off.

    A scale beyond the type stays as it is: no number of the type is near it.
    """
    if scales is None:
        return scale
    half = HALVES[scales]
    rounded = np.maximum(np.minimum(scale, half.largest).astype(half.dtype.numpy()).astype(np.float32), half.normal)
    held: np.ndarray = np.where(scale > half.largest, scale, rounded)
    return held


def safe_scale(amax: np.ndarray | np.float32, largest: float) -> np.ndarray:
    """``amax / largest``; 1 where a channel is all zero, and never subnormal: those lose digits or flush to zero."""
    scale = np.asarray(amax, np.float32) / np.float32(largest)
    floored: np.ndarray = np.where(scale > 0, np.maximum(scale, np.finfo(np.float32).tiny), np.float32(1))
    return floored
