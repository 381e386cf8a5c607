"""What real data says about a node in 16 bits: the extremes of its tensors against what the type holds.

Measured values replace assumptions in both directions: a mean over small values need not be kept in float32, and a
product that grows must. Weighted operators and normalizations sum in float32 inside, whatever type their inputs have;
only explicit sums are judged by what they add up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.autocast.range_probes import SUMS, divisor_of
from trtpipe.config.formats import FP16
from trtpipe.passes.constants import array_of, scalar_of
from trtpipe.passes.operators import NORMALISATIONS, computed_floats, origin

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtpipe.autocast.tensor_ranges import TensorRange, TensorRanges
    from trtpipe.config.formats import Format

#: How far beyond the calibration data other data may reach.
_MARGIN = 4.0
#: Radians by which an angle may be off.
_ANGLE_ERROR = 2.0**-7
_REDUCTIONS = SUMS | {"ReduceL1", "ReduceL2", "ReduceSumSquare"}
_TRIGONOMETRIC = frozenset({"Sin", "Cos", "Tan"})
#: What an exponent may be off by: e to that power is the factor by which a result is wrong.
_EXPONENT_ERROR = 2.0**-3
#: What rounding of its operands may take of a sum or difference: this much, or this share.
_ROUNDED, _CANCELLED = 2.0**-7, 2.0**-3
#: The share that rounding may take of what is left of values in float32, which need not be rounded at all.
_FAR = 2.0**-6
#: Layers whose bias may take away what all values of the first input have in common.
AFFINE = frozenset({"BatchNormalization", "Conv", "Gemm"})
_EXPONENTIAL = frozenset({"Exp", "Softmax", "LogSoftmax"})


class RangeGuard:
    """Decides about nodes by the ranges of their tensors."""

    def __init__(self, half: Format, tensor_ranges: TensorRanges) -> None:
        self._half = half
        self._ranges = tensor_ranges.tensors

    def range_of(self, value: ir.Value) -> TensorRange | None:
        """What a tensor was seen to hold, if it was seen."""
        return self._ranges.get(str(origin(value).name))

    def knows(self, node: ir.Node) -> bool:
        """Whether all that decides about ``node`` was seen. Sums in bfloat16 depend on how they are made instead."""
        if any(self.range_of(value) is None for value in _floats(node)):
            return False
        if node.op_type in _REDUCTIONS:
            return self._half.mantissa >= FP16.mantissa and self._total(node) is not None
        return True

    def objection(self, node: ir.Node) -> str | None:
        """Why ``node``, which it knows, is kept in float32; or ``None``."""
        for value in _floats(node):
            if reason := self._size(value):
                return reason
        return self._sum(node) or self.small_divisor(node) or self._angle(node) or self._difference(node)

    def _size(self, value: ir.Value) -> str | None:
        found = self.range_of(value)
        assert found is not None
        if found.largest > self._half.largest / _MARGIN:
            return f"{value.name!r} reaches {found.largest:.3g}, too close to the end of {self._half.storage}"
        if 0 < found.largest < self._half.normal:
            return f"{value.name!r} stays below {found.largest:.3g}, where {self._half.storage} loses digits"
        return None

    def _sum(self, node: ir.Node) -> str | None:
        total = self._total(node)
        if total is None or total <= self._half.largest / _MARGIN:
            return None
        return f"its terms sum up to {total:.3g}, too close to the end of {self._half.storage}"

    def _total(self, node: ir.Node) -> float | None:
        """The largest value inside a reduction, where it is one and that is known."""
        found = self.range_of(node.outputs[0]) if node.op_type in _REDUCTIONS else None
        if found is None or node.op_type in SUMS:
            return None if found is None else found.terms
        return found.largest**2 if node.op_type == "ReduceL2" else found.largest

    def small_divisor(self, node: ir.Node) -> str | None:
        """Where ``node`` divides, or takes a root or logarithm: why its operand is too small."""
        value = divisor_of(node)
        found = None if value is None else self.range_of(value)
        if value is None or found is None or found.smallest is None or found.smallest >= self._half.normal:
            return None
        if node.op_type == "Pow" and (scalar_of(node.inputs[1]) or 0.0) >= 1:
            return None  # it multiplies its base with itself, so that small bases are safe
        return f"{value.name!r} falls to {found.smallest:.3g}, where {self._half.storage} loses digits"

    def _angle(self, node: ir.Node) -> str | None:
        if node.op_type not in _TRIGONOMETRIC or node.inputs[0] is None:
            return None
        found = self.range_of(node.inputs[0])
        error = 0.0 if found is None else found.largest * self._half.rounding
        return None if error <= _ANGLE_ERROR else f"an angle would be off by {error:.3g} in {self._half.storage}"

    def exponent(self, node: ir.Node) -> str | None:
        """Why the exponent that ``node`` takes should not be cast to 16 bits; or ``None``."""
        if node.op_type not in _EXPONENTIAL or node.inputs[0] is None:
            return None
        found = self.range_of(node.inputs[0])  # what lies far below, as masks do, comes out as 0 in any case
        error = 0.0 if found is None else found.maximum * self._half.rounding
        return None if error <= _EXPONENT_ERROR else f"an exponent would be off by {error:.3g} in {self._half.storage}"

    def _difference(self, node: ir.Node) -> str | None:
        """Operands that cancel leave little but their rounding."""
        operands = [self.range_of(value) for value in node.inputs if value is not None and value.const_value is None]
        found = self.range_of(node.outputs[0])
        if node.op_type not in ("Add", "Sub") or found is None or None in operands:
            return None
        error = self._half.rounding * max((operand.largest for operand in operands if operand), default=0.0)
        if error <= max(_ROUNDED, _CANCELLED * found.largest):
            return None
        return f"its operands cancel: {error:.3g} is lost of results up to {found.largest:.3g}"

    def cancels(self, node: ir.Node) -> str | None:
        """Why operands that are float32 so far must not be rounded before ``node``, a sum or difference, a layer or a
        normalization, takes from them what they have in common; or ``None``.
        """
        if node.op_type in AFFINE:
            seen = None if node.inputs[0] is None else self.range_of(node.inputs[0])
            result = self.range_of(node.outputs[0])
            left = 0.0 if result is None else result.largest
            largest = 0.0 if seen is None else seen.largest * _gain(node)
        elif node.op_type in NORMALISATIONS:
            found = None if node.inputs[0] is None else self.range_of(node.inputs[0])
            left = 0.0 if found is None else (found.maximum - found.minimum) / 2
            largest = 0.0 if found is None else found.largest
        elif node.op_type in ("Add", "Sub"):
            operands = [self.range_of(value) for value in computed_floats(node.inputs)]
            result = self.range_of(node.outputs[0])
            left = 0.0 if result is None else result.largest
            largest = max((operand.largest for operand in operands if operand is not None), default=0.0)
        else:
            return None
        if not 0 < _FAR * left < self._half.rounding * largest:
            return None
        return f"its values cancel: of up to {largest:.3g} no more than {left:.3g} is left"


def _gain(node: ir.Node) -> float:
    """By how much independent errors of the first input come out larger, at most; 0 where weights are computed."""
    if node.op_type == "BatchNormalization":
        scale, variance = array_of(node.inputs[1]), array_of(node.inputs[4])
        if scale is None or variance is None:
            return 0.0
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        return float((np.abs(scale) / np.sqrt(np.maximum(variance, 0.0) + epsilon)).max(initial=0.0))
    weight = array_of(node.inputs[1])
    if weight is None or weight.ndim < 2:
        return 0.0
    rows_first = node.op_type == "Conv" or node.attributes.get_int("transB", 0) != 0
    out = 0 if rows_first else weight.ndim - 1
    rows = np.moveaxis(weight, out, 0).reshape(weight.shape[out], -1)
    return float(node.attributes.get_float("alpha", 1.0) * np.linalg.norm(rows, axis=1).max(initial=0.0))


def _floats(node: ir.Node) -> list[ir.Value]:
    """The float32 tensors of a node; constants are judged by their content."""
    return [value for value in computed_floats((*node.inputs, *node.outputs)) if value.name]
