"""Taking the quantizers out of a model that some other tool quantized, so that it can be calibrated anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.errors import StageError
from trtpipe.passes.constants import add_constant, array_of, drop_unused_constants, replace_value
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of, node_label
from trtpipe.passes.infer_types import InferTypes
from trtpipe.passes.operators import is_standard, moved_values
from trtpipe.passes.standard_quantizers import DEQUANTIZE, QUANTIZE, axis_of, block_of, dequantized, is_simulated

if TYPE_CHECKING:
    from collections.abc import Iterator

_DYNAMIC = "DynamicQuantizeLinear"
#: Products of integers -> the same of floats.
_PRODUCTS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
#: Operators whose results are never negative.
_NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax", "HardSigmoid", "Exp", "Abs", "Softplus"})


class StripQuantizers(GraphPass):
    """Let a quantized model compute in floats, with the weights that it has.

    1. A quantized constant becomes the numbers it stands for.
    2. A pair of quantizers around an activation goes, and what moves values between them moves floats. One whose range
       begins at zero, behind what may be negative, did the work of a Relu or Clip that its tool left out: a Clip stays.
    3. What was quantized as the values came goes too, and products of integers become products of floats.
    """

    name = "strip_quantizers"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite all graphs."""
        fresh = FreshNames(model)
        stripping = _Stripping(fresh)
        for graph in graphs_of(model):
            for node in list(graph):
                stripping.node(node, graph)
        if stripping.modified:
            drop_unused_constants(model)
            InferTypes().call(model)
        return PassResult(self.name, stripping.modified)


class _Stripping:
    """Values that were quantized and are floats now."""

    def __init__(self, fresh: FreshNames) -> None:
        self.modified = False
        self._fresh = fresh
        self._floats: set[ir.Value] = set()

    def node(self, node: ir.Node, graph: ir.Graph) -> None:
        """Rewrite one node; those before it are rewritten already."""
        if is_simulated(node) and node.inputs[0] is not None:
            self._replace(node.outputs[0], node.inputs[0], node, graph, was_quantized=False)
        if not is_standard(node):
            return
        if node.op_type == QUANTIZE:
            self._quantize(node, graph)
        elif node.op_type == DEQUANTIZE:
            self._dequantize(node, graph)
        elif node.op_type == _DYNAMIC:
            self._dynamic(node, graph)
        elif node.op_type in _PRODUCTS:
            self._product(node, graph)
        elif any(value in self._floats for value in moved_values(node)):
            for output in node.outputs:
                output.type = None
                self._floats.add(output)

    def _quantize(self, node: ir.Node, graph: ir.Graph) -> None:
        given, result = node.inputs[0], node.outputs[0]
        _refuse_public(node)
        if given is None:
            return
        limits = _clipping(node, given)
        new = given if limits is None else self._clipped(node, graph, given, limits)
        self._replace(result, new, node, graph)

    def _clipped(self, node: ir.Node, graph: ir.Graph, given: ir.Value, limits: tuple[float, float]) -> ir.Value:
        bounds = [
            add_constant(graph, self._fresh, f"{given.name}_limit", np.asarray(limit, np.float32)) for limit in limits
        ]
        clip = ir.Node("", "Clip", [given, *bounds], [], name=self._fresh(f"{node_label(node)}_clip"))
        output = clip.outputs[0]
        output.name, output.type, output.shape = self._fresh(f"{given.name}_clipped"), given.type, given.shape
        graph.insert_before(node, [clip])
        return output

    def _dequantize(self, node: ir.Node, graph: ir.Graph) -> None:
        given, result = node.inputs[0], node.outputs[0]
        if given is None:
            return
        values, scale = array_of(given), array_of(node.inputs[1])
        if given in self._floats:
            self._replace(result, given, node, graph, was_quantized=False)
        elif values is not None and scale is not None:
            zero = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
            numbers = dequantized(values, scale, zero, axis_of(node), block_of(node))
            new = add_constant(graph, self._fresh, f"{given.name}_dequantized", numbers)
            self._replace(result, new, node, graph, was_quantized=False)

    def _dynamic(self, node: ir.Node, graph: ir.Graph) -> None:
        _refuse_public(node)
        given = node.inputs[0]
        assert given is not None
        nothing: tuple[np.ndarray, ...] = (np.asarray(1, np.float32), np.asarray(0, np.uint8))  # scale, zero point
        for output, array in zip(node.outputs[1:], nothing, strict=False):
            replace_value(output, add_constant(graph, self._fresh, f"{output.name}_none", array))
        self._replace(node.outputs[0], given, node, graph)

    def _product(self, node: ir.Node, graph: ir.Graph) -> None:
        zeros = [*node.inputs[2:4], None, None][:2]
        operands = [self._float(node, graph, value, zero) for value, zero in zip(node.inputs[:2], zeros, strict=True)]
        node.resize_inputs(2)
        for index, operand in enumerate(operands):
            node.replace_input_with(index, operand)
        node.op_type = _PRODUCTS[node.op_type]
        node.outputs[0].dtype = ir.DataType.FLOAT
        self.modified = True

    def _float(self, node: ir.Node, graph: ir.Graph, value: ir.Value | None, zero: ir.Value | None) -> ir.Value:
        """A float operand of a product of integers."""
        if value is None or value in self._floats:
            assert value is not None
            return value
        whole, offset = array_of(value), array_of(zero)
        if whole is None or (zero is not None and offset is None):
            raise StageError(
                f"{node_label(node)} ({node.op_type}) multiplies integers that nothing before it quantized",
                "give the model as it was before it was quantized",
            )
        one = np.asarray(1, np.float32) if offset is None or offset.size == 1 else np.ones(offset.shape, np.float32)
        axis = 0 if node.op_type == "ConvInteger" else -1
        return add_constant(graph, self._fresh, f"{value.name}_float", dequantized(whole, one, offset, axis))

    def _replace(
        self, old: ir.Value, new: ir.Value, node: ir.Node, graph: ir.Graph, *, was_quantized: bool = True
    ) -> None:
        if was_quantized:
            self._floats.add(new)
        new.shape = new.shape or old.shape
        if old.is_graph_output() and (new.is_graph_input() or new.is_initializer() or new.is_graph_output()):
            copy = ir.Node("", "Identity", [new], [], name=self._fresh(f"{node_label(node)}_output"))
            copy.outputs[0].name, copy.outputs[0].type = self._fresh(f"{new.name}_output"), old.type
            graph.insert_before(node, [copy])
            new = copy.outputs[0]
        replace_value(old, new)
        graph.remove(node, safe=True)
        self.modified = True


def _refuse_public(node: ir.Node) -> None:
    for output in node.outputs:
        if output.is_graph_output():
            raise StageError(
                f"output {output.name!r} is quantized: without the quantizer {node_label(node)} it is no longer bytes",
                "let the model give floats: remove that quantizer",
            )


def _clipping(node: ir.Node, given: ir.Value) -> tuple[float, float] | None:
    """The range of a quantizer that begins at zero, behind what may be negative; ``None`` for others."""
    zero, scale = (array_of(value) for value in [*node.inputs[1:3], None, None][1::-1])
    if zero is None or scale is None or zero.size != 1 or scale.size != 1 or zero.dtype.kind not in "iu":
        return None
    limits = np.iinfo(zero.dtype)
    lowest = int(zero.reshape(-1)[0])
    if lowest != limits.min or all(_not_negative(value) for value in _origins(given)):
        return None
    return 0.0, float((limits.max - lowest) * float(scale.reshape(-1)[0]))


def _origins(value: ir.Value) -> Iterator[ir.Value]:
    """Where the elements of ``value`` come from, by way of nodes that only move them."""
    node = value.producer()
    sources = [] if node is None else list(moved_values(node))
    if not sources:
        yield value
    for source in sources:
        yield from _origins(source)


def _not_negative(value: ir.Value) -> bool:
    node = value.producer()
    if node is None:
        return False
    if node.op_type == "Clip":
        least = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
        return least is not None and bool((least >= 0).all())
    return node.op_type in _NOT_NEGATIVE and is_standard(node)
