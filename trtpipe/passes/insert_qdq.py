"""Explicit quantisation: Q/DQ pairs on activations, 8-bit weights behind a DQ.

Symmetric, zero point 0: ``q = round(x / s)`` with ``s = amax / 127`` for INT8, saturated at -127 (weights) or -128
(activations) and 127; for FP8 (E4M3) ``s = amax / 448`` and the value is rounded to the nearest representable one.
Weights are stored in 8 bits, so the file is about a quarter of the size. INT8 weights have one scale per output
channel, FP8 weights one per tensor.
Scheme: Wu et al. 2020, arXiv:2004.09602; NVIDIA TensorRT documentation, "Working with Quantized Types".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir

from trtpipe.errors import StageError
from trtpipe.passes.graph_pass import FreshNames, GraphPass, NodeDecision, PassResult, node_label
from trtpipe.passes.placement import QuantPoint, place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EightBit = Literal["int8", "fp8"]


@dataclass(frozen=True)
class _Format:
    dtype: ir.DataType
    largest: float
    per_channel: bool


_FORMATS: dict[EightBit, _Format] = {
    "int8": _Format(ir.DataType.INT8, 127.0, per_channel=True),
    "fp8": _Format(ir.DataType.FLOAT8E4M3FN, 448.0, per_channel=False),
}
#: QuantizeLinear per axis needs opset 13, float8 needs 19
_LEAST_OPSET: dict[EightBit, int] = {"int8": 13, "fp8": 19}


class InsertQDQ(GraphPass):
    """Quantise the inputs of weighted nodes.

    1. Every activation that feeds a quantised node gets one Q/DQ pair, shared by all such nodes.
    2. Every weight becomes an 8-bit constant behind a DequantizeLinear, per output channel for INT8.
    3. Biases and everything else stay as they are.
    4. Other consumers of the same tensors keep reading the original ones.
    """

    name = "insert_qdq"

    def __init__(self, precision: EightBit, amax: Mapping[str, float], keep: Sequence[str] = ()) -> None:
        self._precision = precision
        self._amax = amax
        self._keep = keep

    def requires(self, model: ir.Model) -> None:
        """The opset must know Q/DQ of this kind."""
        opset = model.graph.opset_imports.get("", 0)
        if opset < _LEAST_OPSET[self._precision]:
            raise StageError(
                f"the model is at opset {opset} and could not be raised; {self._precision} needs "
                f"{_LEAST_OPSET[self._precision]}",
                "export the model again at opset 17 or later",
            )

    def call(self, model: ir.Model) -> PassResult:
        """Insert the pairs."""
        points, decisions = place(model, self._keep)
        rewriter = _Rewriter(self._precision, model)
        for point in points:
            decisions.append(self._quantise(point, rewriter))
        rewriter.drop_unused()
        return PassResult(self.name, modified=bool(points), decisions=tuple(decisions))

    def _quantise(self, point: QuantPoint, rewriter: _Rewriter) -> NodeDecision:
        label, op = node_label(point.node), point.node.op_type
        amax = self._amax.get(point.tensor)
        if amax is None:
            return NodeDecision(node=label, op=op, precision="float32", reason=f"no range for {point.tensor!r}")
        if not amax:
            return NodeDecision(node=label, op=op, precision="float32", reason="its input was zero in all samples")
        rewriter.quantise(point, amax)
        return NodeDecision(
            node=label, op=op, precision=self._precision, reason="weighted operator with a constant weight"
        )


class _Rewriter:
    """Puts the pairs into the graph, each tensor's once."""

    def __init__(self, precision: EightBit, model: ir.Model) -> None:
        self._precision = precision
        self._format = _FORMATS[precision]
        self._graph = model.graph
        self._fresh = FreshNames(model)
        self._activations: dict[ir.Value, ir.Value] = {}
        self._weights: dict[tuple[ir.Value, int], ir.Value] = {}

    def quantise(self, point: QuantPoint, amax: float) -> None:
        node = point.node
        data, kernel = node.inputs[point.activation], node.inputs[point.weight]
        assert data is not None and kernel is not None  # noqa: PT018  placement has checked both
        if data not in self._activations:
            self._activations[data] = self._activation_pair(data, amax)
        if (kernel, point.axis) not in self._weights:
            self._weights[kernel, point.axis] = self._weight(kernel, point.axis, node)
        node.replace_input_with(point.activation, self._activations[data])
        node.replace_input_with(point.weight, self._weights[kernel, point.axis])

    def drop_unused(self) -> None:
        unused = [n for n, v in self._graph.initializers.items() if not v.uses() and not v.is_graph_output()]
        for name in unused:
            del self._graph.initializers[name]

    def _activation_pair(self, value: ir.Value, amax: float) -> ir.Value:
        scale = np.asarray(_safe_scale(np.float32(amax), self._format.largest), np.float32)
        scale_value = self._constant(f"{value.name}_scale", scale)
        zero = self._constant(f"{value.name}_zero_point", np.zeros((), self._format.dtype.numpy()))
        quantise = ir.node("QuantizeLinear", [value, scale_value, zero], name=f"{value.name}_quantize")
        dequantise = ir.node(
            "DequantizeLinear", [quantise.outputs[0], scale_value, zero], name=f"{value.name}_dequantize"
        )
        self._name_output(quantise, f"{value.name}_quantized", self._format.dtype, value.shape)
        self._name_output(dequantise, f"{value.name}_dequantized", ir.DataType.FLOAT, value.shape)
        producer = value.producer()
        if producer is not None:
            self._graph.insert_after(producer, [quantise, dequantise])
        else:
            self._graph.insert_before(self._graph[0], [quantise, dequantise])
        return dequantise.outputs[0]

    def _weight(self, value: ir.Value, axis: int, before: ir.Node) -> ir.Value:
        assert value.const_value is not None
        array = value.const_value.numpy()
        quantised, scale = quantise_weight(array, axis if self._format.per_channel else None, self._precision)
        base = f"{value.name}_axis{axis}"
        inputs = [
            self._constant(f"{base}_quantized", quantised),
            self._constant(f"{base}_scale", scale),
            self._constant(f"{base}_zero_point", np.zeros(scale.shape, self._format.dtype.numpy())),
        ]
        attributes = {"axis": ir.AttrInt64("axis", axis)} if self._format.per_channel else {}
        node = ir.Node("", "DequantizeLinear", inputs, attributes, name=f"{base}_dequantize")
        self._name_output(node, f"{base}_dequantized", ir.DataType.FLOAT, value.shape)
        self._graph.insert_before(before, [node])
        return node.outputs[0]

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        unique = self._fresh(name)
        tensor = ir.tensor(array, name=unique)
        value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def _name_output(self, node: ir.Node, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> None:
        output = node.outputs[0]
        output.name, output.dtype, output.shape = self._fresh(name), dtype, shape


def quantise_weight(array: np.ndarray, axis: int | None, precision: EightBit) -> tuple[np.ndarray, np.ndarray]:
    """Quantise a float32 weight symmetrically.

    Args:
        array: the weight, any shape.
        axis: the axis with one scale per index; ``None`` for one scale in all.
        precision: ``int8`` or ``fp8``.

    Returns:
        The 8-bit array of the same shape, and float32 scales: shape ``[array.shape[axis]]`` or ``[]``.
    """
    form = _FORMATS[precision]
    others = tuple(i for i in range(array.ndim) if i != axis) if axis is not None else None
    scale = np.asarray(_safe_scale(np.abs(array).max(axis=others), form.largest), np.float32)
    shaped = scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    steps = np.clip(array / shaped, -form.largest, form.largest)
    if precision == "int8":
        np.rint(steps, out=steps)
    return steps.astype(form.dtype.numpy()), scale


def _safe_scale(amax: np.ndarray | np.float32, largest: float) -> np.ndarray:
    """``amax / largest``; 1 where a channel is all zero, and never subnormal: those lose digits or flush to zero."""
    scale = np.asarray(amax, np.float32) / np.float32(largest)
    floored: np.ndarray = np.where(scale > 0, np.maximum(scale, np.finfo(np.float32).tiny), np.float32(1))
    return floored
