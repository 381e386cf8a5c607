"""Explicit quantisation: Q/DQ pairs on activations, 8-bit weights behind a DQ.

Symmetric, zero point 0: ``q = clip(round(x / s), -127, 127)`` with ``s = amax / 127`` for INT8; for FP8 (E4M3)
``s = amax / 448`` and the value is rounded to the nearest representable one. Weights are stored in 8 bits, so the file
is about a quarter of the size. INT8 weights have one scale per output channel, FP8 weights one per tensor.
Scheme: Wu et al. 2020, arXiv:2004.09602; NVIDIA TensorRT documentation, "Working with Quantized Types".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir

from trtpipe.errors import StageError
from trtpipe.passes.graph_pass import GraphPass, NodeDecision, PassResult, node_label
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
        self._format = _FORMATS[precision]
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
        activations: dict[ir.Value, ir.Value] = {}
        weights: dict[tuple[ir.Value, int], ir.Value] = {}
        for point in points:
            decisions.append(self._quantise(model.graph, point, activations, weights))
        _drop_unused(model.graph)
        return PassResult(self.name, modified=bool(points), decisions=tuple(decisions))

    def _quantise(
        self,
        graph: ir.Graph,
        point: QuantPoint,
        activations: dict[ir.Value, ir.Value],
        weights: dict[tuple[ir.Value, int], ir.Value],
    ) -> NodeDecision:
        node = point.node
        data, kernel = node.inputs[point.activation], node.inputs[point.weight]
        assert data is not None and kernel is not None  # noqa: PT018  placement has checked both
        label, op = node_label(node), node.op_type
        amax = self._amax.get(point.tensor)
        if amax is None:
            return NodeDecision(node=label, op=op, precision="float32", reason=f"no range for {point.tensor!r}")
        if not amax:
            return NodeDecision(node=label, op=op, precision="float32", reason="its input was zero in all samples")
        if data not in activations:
            activations[data] = self._activation_pair(graph, data, amax)
        if (kernel, point.axis) not in weights:
            weights[kernel, point.axis] = self._weight(graph, kernel, point.axis, node)
        node.replace_input_with(point.activation, activations[data])
        node.replace_input_with(point.weight, weights[kernel, point.axis])
        return NodeDecision(
            node=label, op=op, precision=self._precision, reason="weighted operator with a constant weight"
        )

    def _activation_pair(self, graph: ir.Graph, value: ir.Value, amax: float) -> ir.Value:
        scale = np.asarray(_safe_scale(np.float32(amax), self._format.largest), np.float32)
        scale_value = _constant(graph, f"{value.name}_scale", scale)
        zero = _constant(graph, f"{value.name}_zero_point", np.zeros((), self._format.dtype.numpy()))
        quantise = ir.node("QuantizeLinear", [value, scale_value, zero], name=f"{value.name}_quantize")
        dequantise = ir.node(
            "DequantizeLinear", [quantise.outputs[0], scale_value, zero], name=f"{value.name}_dequantize"
        )
        _name_output(quantise, f"{value.name}_quantized", self._format.dtype, value.shape)
        _name_output(dequantise, f"{value.name}_dequantized", ir.DataType.FLOAT, value.shape)
        producer = value.producer()
        if producer is not None:
            graph.insert_after(producer, [quantise, dequantise])
        else:
            graph.insert_before(graph[0], [quantise, dequantise])
        return dequantise.outputs[0]

    def _weight(self, graph: ir.Graph, value: ir.Value, axis: int, before: ir.Node) -> ir.Value:
        assert value.const_value is not None
        array = value.const_value.numpy()
        quantised, scale = quantise_weight(array, axis if self._format.per_channel else None, self._precision)
        base = f"{value.name}_axis{axis}"
        inputs = [
            _constant(graph, f"{base}_quantized", quantised),
            _constant(graph, f"{base}_scale", scale),
            _constant(graph, f"{base}_zero_point", np.zeros(scale.shape, self._format.dtype.numpy())),
        ]
        attributes = {"axis": ir.AttrInt64("axis", axis)} if self._format.per_channel else {}
        node = ir.Node("", "DequantizeLinear", inputs, attributes, name=f"{base}_dequantize")
        _name_output(node, f"{base}_dequantized", ir.DataType.FLOAT, value.shape)
        graph.insert_before(before, [node])
        return node.outputs[0]


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


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    unique = name
    count = 1
    while unique in graph.initializers:
        count += 1
        unique = f"{name}_{count}"
    tensor = ir.tensor(array, name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _name_output(node: ir.Node, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    output = node.outputs[0]
    output.name, output.dtype, output.shape = name, dtype, shape


def _drop_unused(graph: ir.Graph) -> None:
    for name in [
        name for name, value in graph.initializers.items() if not value.uses() and not value.is_graph_output()
    ]:
        del graph.initializers[name]
