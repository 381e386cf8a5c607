"""The 16-bit floating-point types, in numbers (IEEE 754 binary16; bfloat16 is float32 without its lower half)."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Mapping

HalfType = Literal["float16", "bfloat16"]


@dataclass(frozen=True)
class Half:
    """One type.

    Attributes:
        dtype: its ONNX type.
        largest: its largest finite value.
        normal: its smallest value with all digits; what lies below loses them, down to 0.
        rounding: the largest relative error of rounding to it, for normal values.
    """

    dtype: ir.DataType
    largest: float
    normal: float
    rounding: float


HALVES: Mapping[HalfType, Half] = MappingProxyType(
    {
        "float16": Half(ir.DataType.FLOAT16, 65504.0, 2.0**-14, 2.0**-11),
        "bfloat16": Half(ir.DataType.BFLOAT16, 3.3895313892515355e38, 2.0**-126, 2.0**-8),
    }
)
