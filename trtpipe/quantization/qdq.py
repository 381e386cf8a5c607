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

from trtpipe.calibration.corrections import STEP, unpacked_steps
from trtpipe.config.formats import FP32
from trtpipe.errors import StageError
from trtpipe.passes.constants import add_constant, along, channel_rows, drop_unused_constants
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult
from trtpipe.quantization.decision_record import record
from trtpipe.quantization.plan import bound

if TYPE_CHECKING:
    from trtpipe.config.formats import Format
    from trtpipe.config.recipe import WeightMethod
    from trtpipe.quantization.plan import QuantizationPlan, QuantPoint

#: Shares of a channel's largest magnitude that ``mse`` tries, descending: 1 to 0.5.
_SHARES = np.linspace(1, 0.5, 32, dtype=np.float32)


class InsertQDQ(GraphPass):
    """Write a plan into the graph.

    1. Every activation that a quantized node reads gets one Q/DQ pair, shared by all such nodes of the same graph:
       bodies of If, Loop and Scan have pairs and constants of their own, because TensorRT takes no quantized constant
       that a body captures.
    2. Every weight becomes an 8-bit constant behind a DequantizeLinear, per output channel for INT8.
    3. Tensors between which values only move get one scale, the largest.
    4. Biases and everything else stay as they are; other consumers keep reading the original tensors.

    Args:
        plan: of this graph, with ranges; its corrections must be applied (see ``apply_corrections``).
    """

    name = "insert_qdq"

    def __init__(self, plan: QuantizationPlan) -> None:
        self._plan = plan

    def requires(self, model: ir.Model) -> None:
        """The opset must know Q/DQ of this kind, if any are to be inserted."""
        opset, form = model.graph.opset_imports.get("", 0), self._plan.format
        if opset < form.opset and self._plan.points:
            raise StageError(
                f"the model is at opset {opset} and could not be raised; {form} needs {form.opset}",
                "export the model again at opset 17 or later",
            )

    def call(self, model: ir.Model) -> PassResult:
        """Insert the pairs."""
        plan = self._plan
        decisions = record(model, plan)
        rewriter = _Rewriter(plan, model)
        for point, node in bound(model, plan.points):
            rewriter.quantize(point, node)
        drop_unused_constants(model)
        return PassResult(self.name, modified=bool(plan.points), decisions=decisions)


class _Rewriter:
    """Puts the pairs into the graphs, each tensor's once a graph."""

    def __init__(self, plan: QuantizationPlan, model: ir.Model) -> None:
        self._plan, self._limits = plan, plan.limits
        self._format, self._element_type = plan.format, ir.DataType[plan.format.onnx]
        self._fresh = FreshNames(model)
        self._activations: dict[tuple[ir.Value, ir.Graph], ir.Value] = {}
        self._weights: dict[tuple[ir.Value, ir.Graph, int], ir.Value] = {}

    def quantize(self, point: QuantPoint, node: ir.Node) -> None:
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        for index, name in zip(point.activations, point.inputs, strict=True):
            value = node.inputs[index]
            assert value is not None
            if (value, graph) not in self._activations:
                self._activations[value, graph] = self._activation_pair(graph, value, self._limits[name])
            node.replace_input_with(index, self._activations[value, graph])
        kernel = None if point.weight is None else node.inputs[point.weight]
        if point.weight is None or kernel is None:
            return
        if (kernel, graph, point.axis) not in self._weights:
            self._weights[kernel, graph, point.axis] = self._weight(graph, kernel, point, node)
        node.replace_input_with(point.weight, self._weights[kernel, graph, point.axis])

    def _activation_pair(self, graph: ir.Graph, value: ir.Value, amax: float) -> ir.Value:
        scale = np.asarray(safe_scale(np.float32(amax), self._format.largest, self._plan.scales), np.float32)
        name, zero = value.name, np.zeros((), self._format.dtype)
        how = [add_constant(graph, self._fresh, f"{name}_{word}", each)
               for word, each in (("scale", scale), ("zero_point", zero))]  # fmt: skip
        narrow = ir.val(self._fresh(f"{name}_quantized"), self._element_type, value.shape)
        wide = ir.val(self._fresh(f"{name}_dequantized"), ir.DataType.FLOAT, value.shape)
        quantize = ir.node("QuantizeLinear", [value, *how], outputs=[narrow], name=self._fresh(f"{name}_quantize"))
        dequantize = ir.node("DequantizeLinear", [narrow, *how], outputs=[wide], name=self._fresh(f"{name}_dequantize"))
        producer = value.producer()
        if producer is not None and producer.graph is graph:
            graph.insert_after(producer, [quantize, dequantize])
        else:
            graph.insert_before(graph[0], [quantize, dequantize])
        return wide

    def _weight(self, graph: ir.Graph, value: ir.Value, point: QuantPoint, before: ir.Node) -> ir.Value:
        assert value.const_value is not None
        quantized, scale = quantized_kernel(self._plan, point, value.const_value.numpy())
        base = f"{value.name}_axis{point.axis}"
        inputs = [
            add_constant(graph, self._fresh, f"{base}_quantized", quantized),
            add_constant(graph, self._fresh, f"{base}_scale", scale),
            add_constant(graph, self._fresh, f"{base}_zero_point", np.zeros(scale.shape, self._format.dtype)),
        ]
        attributes = {"axis": point.axis} if self._format.granularity == "channel" else {}
        whole = ir.val(self._fresh(f"{base}_dequantized"), ir.DataType.FLOAT, value.shape)
        label = self._fresh(f"{base}_dequantize")
        graph.insert_before(before, [ir.node("DequantizeLinear", inputs, attributes, outputs=[whole], name=label)])
        return whole


def quantized_kernel(plan: QuantizationPlan, point: QuantPoint, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weight of a point as the plan writes it, with the steps that make up for rounding, and its scales.

    Args:
        array: the weight, smoothed as the plan says.
    """
    channels = point.axis if plan.format.granularity == "channel" else None
    quantized, scale = quantize_weight(array, channels, plan.format, plan.weights, plan.scales)
    steps = unpacked_steps(plan.corrections.rounding.get(point.result, ""), array.size)
    return (quantized if steps is None else _moved(quantized, steps.reshape(array.shape), plan.format)), scale


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
    rows = channel_rows(array, axis)
    scale = safe_scale(np.abs(rows).max(axis=1), form.largest)
    if method == "mse":
        scale = np.concatenate([_least_error(row, limit, form) for row, limit in zip(rows, scale, strict=True)])
    scale = representable(scale, scales)
    quantized = rounded(array, along(scale, axis, array.ndim), form).astype(form.dtype)
    return quantized, scale.reshape(() if axis is None else -1)


def _least_error(row: np.ndarray, largest: np.float32, form: Format) -> np.ndarray:
    """float32[1]: the scale of one channel with the least squared error; of equally good ones the largest."""
    scales = largest * _SHARES
    tried = (rounded(row, scale, form).astype(np.float64) * float(scale) for scale in scales)
    errors = [np.sum((row - each) ** 2) for each in tried]
    best: np.ndarray = np.maximum(scales[[np.argmin(errors)]], np.finfo(np.float32).tiny)
    return best


def rounded(array: np.ndarray, scale: np.ndarray | np.float32, form: Format) -> np.ndarray:
    """``array`` in units of ``scale``, clipped and rounded to what ``form`` holds, in the type of ``array / scale``."""
    units: np.ndarray = np.clip(array / scale, -form.largest, form.largest)
    held: np.ndarray = np.rint(units) if form.kind == "integer" else units.astype(form.dtype).astype(units.dtype)
    return held


def steps_between(quantized: np.ndarray, wanted: np.ndarray, form: Format) -> np.ndarray:
    """Bytes: by how many values of the format ``wanted`` lies above; at most 127 either way.

    Args:
        quantized, wanted: in units of the scale; values of the format.
    """
    found = (_ordinals(each.astype(form.dtype), form) for each in (wanted, quantized))
    steps: np.ndarray = np.clip(np.subtract(*found), -127, 127).astype(STEP)
    return steps


def _moved(quantized: np.ndarray, steps: np.ndarray, form: Format) -> np.ndarray:
    """``quantized`` by so many values of the format further up."""
    most = int(_ordinals(np.array(form.largest).astype(form.dtype), form))
    moved = np.clip(_ordinals(quantized, form) + steps, -most, most)
    if form.kind == "integer":
        integers: np.ndarray = moved.astype(form.dtype)
        return integers
    sign = 1 << (form.bits - 1)
    values: np.ndarray = np.where(moved < 0, sign - moved, moved).astype(np.uint8).view(form.dtype)
    return values


def _ordinals(quantized: np.ndarray, form: Format) -> np.ndarray:
    """int32: the place of each value among all of the format, 0 at 0."""
    if form.kind == "integer":
        whole: np.ndarray = quantized.astype(np.int32)
        return whole
    bits, sign = quantized.view(np.uint8).astype(np.int32), 1 << (form.bits - 1)
    places: np.ndarray = np.where(bits >= sign, sign - bits, bits)
    return places


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


def scale_loss(array: np.ndarray, axis: int | None, form: Format, scales: Format) -> float:
    """By how much ``scales`` raises the squared error of a quantized weight, in dB, because it cannot hold steps so
    small: 0 where all of them are normal numbers. The error of a channel is proportional to the square of its scale.

    Args:
        array, axis: as for ``quantize_weight``.
    """
    wanted = np.abs(channel_rows(array, axis)).max(axis=1).astype(np.float64) / form.largest
    wanted = wanted[wanted > 0]
    if not wanted.size:
        return 0.0
    held = np.maximum(wanted, scales.normal)
    return float(10 * np.log10(np.square(held).sum() / np.square(wanted).sum()))
