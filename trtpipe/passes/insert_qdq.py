"""Explicit quantisation: Q/DQ pairs on activations, 8-bit weights behind a DQ.

Symmetric, zero point 0: ``q = round(x / s)`` with ``s = amax / 127`` for INT8, saturated at -127 (weights) or -128
(activations) and 127; for FP8 (E4M3) ``s = amax / 448`` and the value is rounded to the nearest representable one.
Weights are stored in 8 bits, so the file is about a quarter of the size. INT8 weights have one scale per output
channel, FP8 weights one per tensor.
Scheme: Wu et al. 2020, arXiv:2004.09602; NVIDIA TensorRT documentation, "Working with Quantized Types".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.errors import StageError
from trtpipe.passes.graph_pass import FreshNames, GraphPass, NodeDecision, PassResult, graphs_of, node_label
from trtpipe.passes.placement import QuantPoint, place
from trtpipe.passes.weights import FORMATS, quantise_weight, safe_scale

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.calibration.quantiser import EightBit
    from trtpipe.recipe import WeightMethod

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
        self._weights: WeightMethod = weights
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


def scale_of(amax: float, precision: EightBit) -> np.ndarray:
    """float32 scalar: the scale of an activation whose largest magnitude is ``amax``."""
    return np.asarray(safe_scale(np.float32(amax), FORMATS[precision].largest), np.float32)


class _Rewriter:
    """Puts the pairs into the graphs, each tensor's once a graph."""

    def __init__(self, precision: EightBit, method: WeightMethod, model: ir.Model) -> None:
        self._precision = precision
        self._method: WeightMethod = method
        self._format = FORMATS[precision]
        self._graphs = list(graphs_of(model))
        self._fresh = FreshNames(model)
        self._activations: dict[tuple[ir.Value, ir.Graph], ir.Value] = {}
        self._weights: dict[tuple[ir.Value, ir.Graph, int], ir.Value] = {}

    def quantise(self, point: QuantPoint, amax: float) -> None:
        node, graph = point.node, point.node.graph
        data, kernel = node.inputs[point.activation], node.inputs[point.weight]
        assert data is not None and kernel is not None and isinstance(graph, ir.Graph)  # noqa: PT018  placement's work
        if (data, graph) not in self._activations:
            self._activations[data, graph] = self._activation_pair(graph, data, amax)
        if (kernel, graph, point.axis) not in self._weights:
            self._weights[kernel, graph, point.axis] = self._weight(graph, kernel, point.axis, node)
        node.replace_input_with(point.activation, self._activations[data, graph])
        node.replace_input_with(point.weight, self._weights[kernel, graph, point.axis])

    def drop_unused(self) -> None:
        for graph in self._graphs:
            unused = [n for n, v in graph.initializers.items() if not v.uses() and not v.is_graph_output()]
            for name in unused:
                del graph.initializers[name]

    def _activation_pair(self, graph: ir.Graph, value: ir.Value, amax: float) -> ir.Value:
        scale = scale_of(amax, self._precision)
        scale_value = self._constant(graph, f"{value.name}_scale", scale)
        zero = self._constant(graph, f"{value.name}_zero_point", np.zeros((), self._format.dtype.numpy()))
        quantise = ir.node("QuantizeLinear", [value, scale_value, zero], name=self._fresh(f"{value.name}_quantize"))
        self._name_output(quantise, f"{value.name}_quantized", self._format.dtype, value.shape)
        dequantise = ir.node(
            "DequantizeLinear",
            [quantise.outputs[0], scale_value, zero],
            name=self._fresh(f"{value.name}_dequantize"),
        )
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
        channels = axis if self._format.per_channel else None
        quantised, scale = quantise_weight(array, channels, self._precision, self._method)
        base = f"{value.name}_axis{axis}"
        inputs = [
            self._constant(graph, f"{base}_quantized", quantised),
            self._constant(graph, f"{base}_scale", scale),
            self._constant(graph, f"{base}_zero_point", np.zeros(scale.shape, self._format.dtype.numpy())),
        ]
        attributes = {"axis": ir.AttrInt64("axis", axis)} if self._format.per_channel else {}
        node = ir.Node("", "DequantizeLinear", inputs, attributes, name=self._fresh(f"{base}_dequantize"))
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
