"""Explicit quantisation: Q/DQ pairs on activations, 8-bit weights behind a DQ.

Symmetric, zero point 0: ``q = round(x / s)`` with ``s = amax / 127`` for INT8, saturated at -127 (weights) or -128
(activations) and 127; for FP8 (E4M3) ``s = amax / 448`` and the value is rounded to the nearest representable one.
Weights are stored in 8 bits, so the file is about a quarter of the size. INT8 weights have one scale per output
channel, FP8 weights one per tensor.
Scheme: Wu et al. 2020, arXiv:2004.09602; NVIDIA TensorRT documentation, "Working with Quantized Types".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.errors import StageError
from trtpipe.passes.graph_pass import FreshNames, GraphPass, NodeDecision, PassResult, graphs_of, node_label
from trtpipe.passes.placement import QuantPoint, place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.calibration.quantiser import EightBit
    from trtpipe.recipe import WeightMethod


@dataclass(frozen=True)
class _Format:
    dtype: ir.DataType
    largest: float
    per_channel: bool


_FORMATS: dict[EightBit, _Format] = {
    "int8": _Format(ir.DataType.INT8, 127.0, per_channel=True),
    "fp8": _Format(ir.DataType.FLOAT8E4M3FN, 448.0, per_channel=False),
}
#: Shares of a channel's largest magnitude that ``mse`` tries, descending: 1 to 0.5.
_SHARES = np.linspace(1, 0.5, 32, dtype=np.float32)
#: QuantizeLinear per axis needs opset 13, float8 needs 19
_LEAST_OPSET: dict[EightBit, int] = {"int8": 13, "fp8": 19}


class InsertQDQ(GraphPass):
    """Quantise the inputs of weighted nodes.

    1. Every activation that feeds a quantised node gets one Q/DQ pair, shared by all such nodes of the same graph:
       the branches of an If have pairs and constants of their own, because TensorRT takes no quantised constant
       that a branch captures.
    2. Every weight becomes an 8-bit constant behind a DequantizeLinear, per output channel for INT8.
    3. Biases and everything else stay as they are.
    4. Other consumers of the same tensors keep reading the original ones.
    """

    name = "insert_qdq"

    def __init__(
        self,
        precision: EightBit,
        amax: Mapping[str, float],
        keep: Sequence[str] = (),
        weights: WeightMethod = "max",
    ) -> None:
        self._precision = precision
        self._weights = weights
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
        rewriter = _Rewriter(self._precision, self._weights, model)
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
    """Puts the pairs into the graphs, each tensor's once in every graph that quantises it."""

    def __init__(self, precision: EightBit, method: WeightMethod, model: ir.Model) -> None:
        self._precision = precision
        self._method = method
        self._format = _FORMATS[precision]
        self._model = model
        self._fresh = FreshNames(model)
        self._activations: dict[tuple[ir.Value, ir.Graph], ir.Value] = {}
        self._weights: dict[tuple[ir.Value, ir.Graph, int], ir.Value] = {}

    def quantise(self, point: QuantPoint, amax: float) -> None:
        node, graph, axis = point.node, point.node.graph, point.axis
        data, kernel = node.inputs[point.activation], node.inputs[point.weight]
        assert data is not None and kernel is not None  # noqa: PT018  placement has checked both
        assert isinstance(graph, ir.Graph)
        if (data, graph) not in self._activations:
            self._activations[data, graph] = self._activation_pair(graph, data, amax)
        if (kernel, graph, axis) not in self._weights:
            self._weights[kernel, graph, axis] = self._weight(graph, kernel, axis, node)
        node.replace_input_with(point.activation, self._activations[data, graph])
        node.replace_input_with(point.weight, self._weights[kernel, graph, axis])

    def drop_unused(self) -> None:
        for graph in graphs_of(self._model):
            for name, value in list(graph.initializers.items()):
                if not value.uses() and not value.is_graph_output():
                    del graph.initializers[name]

    def _activation_pair(self, graph: ir.Graph, value: ir.Value, amax: float) -> ir.Value:
        scale = np.asarray(_safe_scale(np.float32(amax), self._format.largest), np.float32)
        scale_value = self._constant(graph, f"{value.name}_scale", scale)
        zero = self._constant(graph, f"{value.name}_zero_point", np.zeros((), self._format.dtype.numpy()))
        quantise = ir.node("QuantizeLinear", [value, scale_value, zero], name=f"{value.name}_quantize")
        dequantise = ir.node(
            "DequantizeLinear", [quantise.outputs[0], scale_value, zero], name=f"{value.name}_dequantize"
        )
        self._name_output(quantise, f"{value.name}_quantized", self._format.dtype, value.shape)
        self._name_output(dequantise, f"{value.name}_dequantized", ir.DataType.FLOAT, value.shape)
        producer = value.producer()
        if producer is not None and producer.graph is graph:
            graph.insert_after(producer, [quantise, dequantise])
        else:
            graph.insert_before(graph[0], [quantise, dequantise])
        return dequantise.outputs[0]

    def _weight(self, graph: ir.Graph, value: ir.Value, axis: int, before: ir.Node) -> ir.Value:
        assert value.const_value is not None
        array = value.const_value.numpy()
        along = axis if self._format.per_channel else None
        quantised, scale = quantise_weight(array, along, self._precision, self._method)
        base = f"{value.name}_axis{axis}"
        inputs = [
            self._constant(graph, f"{base}_quantized", quantised),
            self._constant(graph, f"{base}_scale", scale),
            self._constant(graph, f"{base}_zero_point", np.zeros(scale.shape, self._format.dtype.numpy())),
        ]
        attributes = {"axis": ir.AttrInt64("axis", axis)} if self._format.per_channel else {}
        node = ir.Node("", "DequantizeLinear", inputs, attributes, name=f"{base}_dequantize")
        self._name_output(node, f"{base}_dequantized", ir.DataType.FLOAT, value.shape)
        graph.insert_before(before, [node])
        return node.outputs[0]

    def _constant(self, graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
        unique = self._fresh(name)
        tensor = ir.tensor(array, name=unique)
        value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(value)
        return value

    def _name_output(self, node: ir.Node, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> None:
        output = node.outputs[0]
        output.name, output.dtype, output.shape = self._fresh(name), dtype, shape


def largest_value(precision: EightBit) -> float:
    """The largest value of the format: a scale is amax divided by it."""
    return _FORMATS[precision].largest


def quantise_weight(
    array: np.ndarray, axis: int | None, precision: EightBit, method: WeightMethod = "max"
) -> tuple[np.ndarray, np.ndarray]:
    """Quantise a float32 weight symmetrically.

    Args:
        array: the weight, any shape.
        axis: the axis with one scale per index; ``None`` for one scale in all.
        precision: ``int8`` or ``fp8``.
        method: ``max`` covers the largest magnitude of every channel; ``mse`` clips each channel where that lessens
            its squared error, measured for every one of 32 shares of its largest magnitude.

    Returns:
        The 8-bit array of the same shape, and float32 scales: shape ``[array.shape[axis]]`` or ``[]``.
    """
    form = _FORMATS[precision]
    rows = array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    scale = _safe_scale(np.abs(rows).max(axis=1), form.largest)
    if method == "mse":
        scale = np.concatenate([_least_error(row, limit, form) for row, limit in zip(rows, scale, strict=True)])
    shaped = scale.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    quantised = _steps(array, shaped, form).astype(form.dtype.numpy())
    return quantised, scale.reshape(() if axis is None else -1)


def _least_error(row: np.ndarray, largest: np.float32, form: _Format) -> np.ndarray:
    """float32[1]: the scale of one channel with the least squared error; of equally good ones the largest."""
    scales = largest * _SHARES
    errors = [np.sum((row - _rounded(row, scale, form) * float(scale)) ** 2) for scale in scales]
    best: np.ndarray = np.maximum(scales[[np.argmin(errors)]], np.finfo(np.float32).tiny)
    return best


def _rounded(row: np.ndarray, scale: np.float32, form: _Format) -> np.ndarray:
    return _steps(row, scale, form).astype(form.dtype.numpy()).astype(np.float64)


def _steps(array: np.ndarray, scale: np.ndarray | np.float32, form: _Format) -> np.ndarray:
    """``array`` in units of ``scale``, clipped; in whole steps for INT8."""
    steps = np.clip(array / scale, -form.largest, form.largest)
    return np.rint(steps, out=steps) if form.dtype == ir.DataType.INT8 else steps


def _safe_scale(amax: np.ndarray | np.float32, largest: float) -> np.ndarray:
    """``amax / largest``; 1 where a channel is all zero, and never subnormal: those lose digits or flush to zero."""
    scale = np.asarray(amax, np.float32) / np.float32(largest)
    floored: np.ndarray = np.where(scale > 0, np.maximum(scale, np.finfo(np.float32).tiny), np.float32(1))
    return floored
