"""Quantizers of a model that some other tool quantized, in the form that TensorRT and onnxruntime both read.

Nothing that is computed changes: other words for the same, and constants that are known now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.config.formats import FORMATS, INT8
from trtpipe.passes.constants import add_constant, array_of, drop_unused_constants, is_constant, replace_value
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of

if TYPE_CHECKING:
    from trtpipe.config.formats import Format

#: The domain of TensorRT's own quantizers, which NVIDIA's Model Optimizer writes, and onnxruntime's domain.
_TENSORRT, _MICROSOFT = "trt", "com.microsoft"
#: The middle of unsigned bytes: with this zero point they mean what signed ones mean with none.
_MIDDLE = 128
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_STORED = frozenset(ir.DataType[form.onnx] for form in FORMATS if form.quantized)
#: The opset whose quantizers have a scale for every block of values.
_BLOCKED = 21


class StandardQuantizers(GraphPass):
    """Write quantizers in ONNX's own operators.

    1. TensorRT's (``TRT_FP8QuantizeLinear``) and onnxruntime's by ONNX's.
    2. Unsigned bytes around 128 as signed bytes around 0.
    3. What is dequantized from a constant of 32 bits, as biases are, is a float constant.
    """

    name = "standard_quantizers"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite all graphs."""
        fresh = FreshNames(model)
        modified = False
        for graph in graphs_of(model):
            for node in list(graph):
                modified |= _in_own_words(node, graph, fresh)
        for graph in graphs_of(model):
            for node in list(graph):
                modified |= _signed(node, graph, fresh) or _folded(node, graph, fresh)
        if modified:
            drop_unused_constants(model)
        return PassResult(self.name, modified)


def least_opset(model: ir.Model) -> int:
    """The least opset whose QuantizeLinear and DequantizeLinear take the element types that the model has there."""
    forms = {ir.DataType[form.onnx]: form for form in FORMATS if form.quantized}
    found = [
        forms[value.dtype].opset
        for node in model.graph.all_nodes()
        if node.op_type in (QUANTIZE, DEQUANTIZE) and node.domain == ""
        for value in (*node.inputs, *node.outputs)
        if value is not None and value.dtype in forms
    ]
    if any(block_of(node) for node in model.graph.all_nodes() if node.op_type in (QUANTIZE, DEQUANTIZE)):
        found.append(_BLOCKED)
    return max(found, default=0)


def _in_own_words(node: ir.Node, graph: ir.Graph, fresh: FreshNames) -> bool:
    if node.op_type in (QUANTIZE, DEQUANTIZE) and (node.domain == _MICROSOFT or _stores_bits(node)):
        node.domain = ""
        return True
    for op in (QUANTIZE, DEQUANTIZE):
        word = node.op_type.removeprefix("TRT_").removesuffix(op)
        form = next((each for each in FORMATS if each.quantized and each.name.upper() == word), None)
        if node.domain == _TENSORRT and form is not None and node.op_type == f"TRT_{word}{op}":
            _write(node, op, form, graph, fresh)
            return True
    return False


def _stores_bits(node: ir.Node) -> bool:
    """Whether a quantizer of TensorRT's domain reads or makes values of a quantized format."""
    value = node.outputs[0] if node.op_type == QUANTIZE else node.inputs[0]
    return node.domain == _TENSORRT and value is not None and value.dtype in _STORED


def is_simulated(node: ir.Node) -> bool:
    """Whether a node of TensorRT's domain dequantizes floats: a mark of Model Optimizer at a weight that is to be
    quantized when the file is finished.
    """
    value = node.inputs[0] if node.inputs else None
    floats = value is not None and value.dtype is not None and value.dtype.is_floating_point()
    return node.domain == _TENSORRT and node.op_type == DEQUANTIZE and floats and not _stores_bits(node)


def _write(node: ir.Node, op: str, form: Format, graph: ir.Graph, fresh: FreshNames) -> None:
    kind = ir.DataType[form.onnx]
    scale = array_of(node.inputs[1])
    node.domain, node.op_type = "", op
    if op == QUANTIZE:
        zero = np.zeros(() if scale is None else scale.shape, form.dtype)
        node.resize_inputs(3)
        node.replace_input_with(2, add_constant(graph, fresh, f"{node.outputs[0].name}_zero_point", zero))
        node.outputs[0].dtype = kind
    else:
        node.resize_inputs(2)
        given = node.inputs[0]
        if given is not None and given.dtype is None:
            given.dtype = kind
        scaled = None if node.inputs[1] is None else node.inputs[1].dtype
        node.outputs[0].dtype = scaled or ir.DataType.FLOAT


def _zero_point(node: ir.Node) -> np.ndarray | None:
    """The zero point of a quantizer, if it is a constant."""
    return array_of(node.inputs[2]) if len(node.inputs) > 2 else None


def _around_middle(node: ir.Node) -> bool:
    zero = _zero_point(node)
    return node.domain == "" and zero is not None and zero.dtype == np.uint8 and bool((zero == _MIDDLE).all())


def _signed(node: ir.Node, graph: ir.Graph, fresh: FreshNames) -> bool:
    """Signed bytes in the place of unsigned ones around 128, where all that reads them dequantizes them."""
    if not _around_middle(node):
        return False
    value = node.outputs[0] if node.op_type == QUANTIZE else node.inputs[0]
    if value is None or value.is_graph_output():
        return False
    readers = [use.node for use in value.uses()]
    if any(reader.op_type != DEQUANTIZE or not _around_middle(reader) for reader in readers):
        return False
    maker = value.producer()
    if is_constant(value):
        shifted = (array_of(value).astype(np.int16) - _MIDDLE).astype(INT8.dtype)  # type: ignore[union-attr]
        new = add_constant(graph, fresh, f"{value.name}_signed", shifted)
        for reader in readers:
            reader.replace_input_with(0, new)
    elif maker is not None and maker.op_type == QUANTIZE and _around_middle(maker):
        value.dtype = ir.DataType[INT8.onnx]
    else:
        return False
    for each in {*readers, *([maker] if maker is not None else [])}:
        zero = _zero_point(each)
        assert zero is not None
        each.replace_input_with(2, add_constant(graph, fresh, f"{value.name}_zero", np.zeros(zero.shape, INT8.dtype)))
    return True


def _folded(node: ir.Node, graph: ir.Graph, fresh: FreshNames) -> bool:
    """A float constant in the place of a constant of 32 bits that is dequantized."""
    if node.op_type != DEQUANTIZE or node.domain != "" or node.inputs[0] is None or node.outputs[0].is_graph_output():
        return False
    values, scale = array_of(node.inputs[0]), array_of(node.inputs[1])
    if values is None or scale is None or values.dtype != np.int32:
        return False
    result = dequantized(values, scale, _zero_point(node), axis_of(node))
    replace_value(node.outputs[0], add_constant(graph, fresh, f"{node.outputs[0].name}_folded", result))
    graph.remove(node, safe=True)
    return True


def axis_of(node: ir.Node) -> int:
    """Along which axis the scales of a quantizer differ."""
    attribute = node.attributes.get("axis")
    return 1 if attribute is None else attribute.as_int()


def block_of(node: ir.Node) -> int:
    """Values of one scale along the axis of a quantizer; 0 where they are not blocked."""
    attribute = node.attributes.get("block_size")
    return 0 if attribute is None else attribute.as_int()


def dequantized(
    values: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, axis: int, block: int = 0
) -> np.ndarray:
    """The numbers that a quantized array stands for, in the type of its scales: ``(values - zero) * scale``.

    Args:
        scale, zero: one; as many as ``values`` has along ``axis``; or, with ``block``, of the shape of ``values``, with
            one for so many along ``axis``.
    """

    def spread(array: np.ndarray) -> np.ndarray:
        if array.size == 1:
            return array.reshape(())
        if block:
            return np.repeat(array, block, axis).take(range(values.shape[axis]), axis)
        return array.reshape([-1 if index == axis % values.ndim else 1 for index in range(values.ndim)])

    exact = np.int64 if values.dtype.kind in "iu" else np.float32  # numpy has no integers of 4 bits, nor 8-bit floats
    whole: np.ndarray = values.astype(exact)
    if zero is not None:
        whole = whole - spread(zero).astype(exact)
    result: np.ndarray = whole.astype(scale.dtype) * spread(scale)
    return result
