"""Explicit quantization: Q/DQ pairs on activations, 8-bit weights behind a DQ.

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

from trtpipe.config.formats import FP32
from trtpipe.errors import StageError
from trtpipe.passes.constants import add_constant, drop_unused_constants
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult
from trtpipe.quantization.decision_record import record
from trtpipe.quantization.plan import QuantPoint, place
from trtpipe.quantization.scale_groups import joint_amax
from trtpipe.quantization.weights import quantize_weight, safe_scale

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.config.formats import Format
    from trtpipe.config.recipe import WeightMethod


class InsertQDQ(GraphPass):
    """Quantize what ``place`` plans.

    1. Every activation that a quantized node reads gets one Q/DQ pair, shared by all such nodes of the same graph:
       bodies of If, Loop and Scan have pairs and constants of their own, because TensorRT takes no quantized constant
       that a body captures.
    2. Every weight becomes an 8-bit constant behind a DequantizeLinear, per output channel for INT8.
    3. Tensors between which values only move get one scale, the largest.
    4. Biases and everything else stay as they are; other consumers keep reading the original tensors.

    Args:
        precision: the quantized format.
        amax: tensor -> its largest magnitude that counts; a node that reads a tensor without one stays high.
        keep: shell patterns of node names to leave high.
        weights: how the scales of weights are chosen.
        scales: the format in which TensorRT will hold the scales. They are float32 here in any case, but rounded to it
            before anything is quantized with them.
        sizes: symbolic dimension -> its size, to count multiply-accumulates with.
        unfit: tensor -> why it has no range.
        attention: whether the two products of an attention may be in 8 bits.
        left: name of a node to leave high -> why.
    """

    name = "insert_qdq"

    def __init__(
        self,
        precision: Format,
        amax: Mapping[str, float],
        keep: Sequence[str] = (),
        weights: WeightMethod = "max",
        scales: Format = FP32,
        sizes: Mapping[str, int] | None = None,
        unfit: Mapping[str, str] | None = None,
        attention: bool = False,
        left: Mapping[str, str] | None = None,
    ) -> None:
        self._precision = precision
        self._weights: WeightMethod = weights
        self._scales = scales
        self._amax = amax
        self._keep = keep
        self._sizes = sizes or {}
        self._unfit = unfit or {}
        self._attention = attention
        self._left = left or {}

    def requires(self, model: ir.Model) -> None:
        """The opset must know Q/DQ of this kind, if any are to be inserted."""
        opset = model.graph.opset_imports.get("", 0)
        if opset < self._precision.opset and place(model, self._keep).points:
            raise StageError(
                f"the model is at opset {opset} and could not be raised; {self._precision} needs "
                f"{self._precision.opset}",
                "export the model again at opset 17 or later",
            )

    def call(self, model: ir.Model) -> PassResult:
        """Insert the pairs."""
        placement = place(model, self._keep, attention=self._attention, left=self._left)
        amax = joint_amax(self._amax, placement.groups)
        failed = {
            point.node: reason for point in placement.points if (reason := self._no_range(point, amax)) is not None
        }
        points = [point for point in placement.points if point.node not in failed]
        precisions: dict[ir.Node, str] = {point.node: self._precision.label for point in points}
        decisions = record(model, placement, precisions, failed, self._sizes)
        rewriter = _Rewriter(self._precision, self._weights, self._scales, model)
        for point in points:
            rewriter.quantize(point, amax)
        drop_unused_constants(model)
        return PassResult(self.name, modified=bool(points), decisions=decisions)

    def _no_range(self, point: QuantPoint, amax: Mapping[str, float]) -> str | None:
        for name in point.tensors:
            if name not in amax:
                return self._unfit.get(name, f"no range for {name!r}: no calibration data reached it")
            if not amax[name]:
                return f"its input {name!r} was zero in all samples"
            scale = amax[name] / self._precision.largest
            if self._scales is not FP32 and scale < self._scales.normal:
                return f"its input {name!r} is so small that its scale would lose digits in {self._scales.storage}"
        return None


class _Rewriter:
    """Puts the pairs into the graphs, each tensor's once a graph."""

    def __init__(self, precision: Format, method: WeightMethod, scales: Format, model: ir.Model) -> None:
        self._method: WeightMethod = method
        self._scales = scales
        self._format, self._element_type = precision, ir.DataType[precision.onnx]
        self._fresh = FreshNames(model)
        self._activations: dict[tuple[ir.Value, ir.Graph], ir.Value] = {}
        self._weights: dict[tuple[ir.Value, ir.Graph, int], ir.Value] = {}

    def quantize(self, point: QuantPoint, amax: Mapping[str, float]) -> None:
        node, graph = point.node, point.node.graph
        assert isinstance(graph, ir.Graph)
        for index in point.activations:
            value = node.inputs[index]
            assert value is not None
            if (value, graph) not in self._activations:
                self._activations[value, graph] = self._activation_pair(graph, value, amax[value.name or ""])
            node.replace_input_with(index, self._activations[value, graph])
        kernel = None if point.weight is None else node.inputs[point.weight]
        if point.weight is None or kernel is None:
            return
        if (kernel, graph, point.axis) not in self._weights:
            self._weights[kernel, graph, point.axis] = self._weight(graph, kernel, point.axis, node)
        node.replace_input_with(point.weight, self._weights[kernel, graph, point.axis])

    def _activation_pair(self, graph: ir.Graph, value: ir.Value, amax: float) -> ir.Value:
        scale = np.asarray(safe_scale(np.float32(amax), self._format.largest, self._scales), np.float32)
        scale_value = add_constant(graph, self._fresh, f"{value.name}_scale", scale)
        zero = add_constant(graph, self._fresh, f"{value.name}_zero_point", np.zeros((), self._format.dtype))
        quantize = ir.node("QuantizeLinear", [value, scale_value, zero], name=self._fresh(f"{value.name}_quantize"))
        self._name_output(quantize, f"{value.name}_quantized", self._element_type, value.shape)
        dequantize = ir.node(
            "DequantizeLinear",
            [quantize.outputs[0], scale_value, zero],
            name=self._fresh(f"{value.name}_dequantize"),
        )
        self._name_output(dequantize, f"{value.name}_dequantized", ir.DataType.FLOAT, value.shape)
        producer = value.producer()
        if producer is not None and producer.graph is graph:
            graph.insert_after(producer, [quantize, dequantize])
        else:
            graph.insert_before(graph[0], [quantize, dequantize])
        return dequantize.outputs[0]

    def _weight(self, graph: ir.Graph, value: ir.Value, axis: int, before: ir.Node) -> ir.Value:
        assert value.const_value is not None
        array = value.const_value.numpy()
        channels = axis if self._format.granularity == "channel" else None
        quantized, scale = quantize_weight(array, channels, self._format, self._method, self._scales)
        base = f"{value.name}_axis{axis}"
        inputs = [
            add_constant(graph, self._fresh, f"{base}_quantized", quantized),
            add_constant(graph, self._fresh, f"{base}_scale", scale),
            add_constant(graph, self._fresh, f"{base}_zero_point", np.zeros(scale.shape, self._format.dtype)),
        ]
        attributes = {"axis": ir.AttrInt64("axis", axis)} if self._format.granularity == "channel" else {}
        node = ir.Node("", "DequantizeLinear", inputs, attributes, name=self._fresh(f"{base}_dequantize"))
        self._name_output(node, f"{base}_dequantized", ir.DataType.FLOAT, value.shape)
        graph.insert_before(before, [node])
        return node.outputs[0]

    def _name_output(self, node: ir.Node, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> None:
        output = node.outputs[0]
        output.name, output.dtype, output.shape = self._fresh(name), dtype, shape
