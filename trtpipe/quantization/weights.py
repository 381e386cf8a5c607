"""Weights in quantized formats.

Symmetric, zero point 0: ``q = clip(round(x / s), -127, 127)`` with ``s = amax / 127`` for INT8; for FP8 (E4M3)
``s = amax / 448`` and the value is rounded to the nearest representable one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.config.formats import FP32

if TYPE_CHECKING:
    from trtpipe.config.formats import Format
    from trtpipe.config.recipe import WeightMethod


#: Shares of a channel's largest magnitude that ``mse`` tries, descending: 1 to 0.5.
_SHARES = np.linspace(1, 0.5, 32, dtype=np.float32)


def quantize_weight(
    array: np.ndarray,
    axis: int | None,
    form: Format,
    method: WeightMethod = "max",
    scales: Format = FP32,
) -> tuple[np.ndarray, np.ndarray]:
    """Quantize a float32 weight symmetrically.

    Args:
        array: the weight, any shape.
        axis: the axis with one scale per index; ``None`` for one scale in all.
        form: a quantized format; its blocks and granularity are the caller's business.
        method: ``max`` covers the largest magnitude of every channel; ``mse`` clips each channel where that lessens
            its squared error, measured for every one of 32 shares of its largest magnitude.
        scales: the format to round the scales to before anything is quantized with them.

    Returns:
        The 8-bit array of the same shape, and float32 scales: shape ``[array.shape[axis]]`` or ``[]``.
    """
    rows = array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    scale = safe_scale(np.abs(rows).max(axis=1), form.largest)
    if method == "mse":
        scale = np.concatenate([_least_error(row, limit, form) for row, limit in zip(rows, scale, strict=True)])
    scale = representable(scale, scales)
    shaped = scale.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    quantized = _steps(array, shaped, form).astype(form.dtype)
    return quantized, scale.reshape(() if axis is None else -1)


def _least_error(row: np.ndarray, largest: np.float32, form: Format) -> np.ndarray:
    """float32[1]: the scale of one channel with the least squared error; of equally good ones the largest."""
    scales = largest * _SHARES
    errors = [np.sum((row - _rounded(row, scale, form) * float(scale)) ** 2) for scale in scales]
    best: np.ndarray = np.maximum(scales[[np.argmin(errors)]], np.finfo(np.float32).tiny)
    return best


def _rounded(row: np.ndarray, scale: np.float32, form: Format) -> np.ndarray:
    return _steps(row, scale, form).astype(form.dtype).astype(np.float64)


def _steps(array: np.ndarray, scale: np.ndarray | np.float32, form: Format) -> np.ndarray:
    """``array`` in units of ``scale``, clipped; in whole steps for INT8."""
    steps: np.ndarray = np.clip(array / scale, -form.largest, form.largest)
    if form.kind == "integer":
        np.rint(steps, out=steps)
    return steps


def safe_scale(amax: np.ndarray | np.float32, largest: float, scales: Format = FP32) -> np.ndarray:
    """``amax / largest`` as TensorRT will hold it; 1 where a channel is all zero."""
    scale = np.asarray(amax, np.float32) / np.float32(largest)
    return representable(np.where(scale > 0, scale, np.float32(1)), scales)


def representable(scale: np.ndarray, scales: Format) -> np.ndarray:
    """Positive scales as float32 numbers that ``scales`` holds exactly, never subnormal.

    Subnormal numbers lose digits or flush to zero. A channel whose scale is raised to the least normal number gets
    fewer steps, but its error stays below half of that number.
    """
    scale = np.minimum(scale, np.float32(scales.largest)).astype(scales.dtype).astype(np.float32)
    floored: np.ndarray = np.maximum(scale, np.float32(scales.normal))
    return floored
