"""Images that come as bytes and are scaled by a DequantizeLinear: that is preprocessing, and no quantized graph."""

from __future__ import annotations

import onnx_ir as ir

from trtpipe.passes.constants import array_of, drop_unused_constants, is_constant
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of
from trtpipe.passes.operators import PURE_MOVES, is_standard
from trtpipe.passes.standard_quantizers import DEQUANTIZE, block_of
from trtpipe.passes.writer import Writer, attribute


class ScaleByteInputs(GraphPass):
    """Write DequantizeLinear of an unsigned input as its definition: Cast, Sub and Mul in the scale's type.

    Exact: the difference of two bytes is a number of each floating-point type. Pure moves may lie between.
    """

    name = "scale_byte_inputs"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite all graphs."""
        fresh, opset = FreshNames(model), model.graph.opset_imports.get("", 1)
        found = [node for graph in graphs_of(model) for node in graph if _reads_bytes(node)]
        modified = [_write(node, Writer(node, opset, fresh)) for node in found]
        if any(modified):
            drop_unused_constants(model)
        return PassResult(self.name, any(modified))


def _reads_bytes(node: ir.Node) -> bool:
    """Whether a node dequantizes an unsigned input of the graph."""
    if not is_standard(node) or node.op_type != DEQUANTIZE or block_of(node):
        return False
    value = node.inputs[0]
    while value is not None and (maker := value.producer()) is not None:
        if not is_standard(maker) or maker.op_type not in PURE_MOVES:
            return False
        value = maker.inputs[0]
    return value is not None and value.is_graph_input() and not is_constant(value) and value.dtype == ir.DataType.UINT8


def _write(node: ir.Node, w: Writer) -> bool:
    value, scale, zero_point = [*node.inputs, None][:3]
    if value is None or scale is None or scale.dtype is None:
        return False
    steps, zeros = array_of(scale), array_of(zero_point)
    if steps is None or (zero_point is not None and zeros is None):
        return False
    shape: list[int] = []  # of one number
    if steps.size > 1:
        if value.shape is None:
            return False
        rank = len(value.shape)
        shape = [-1] + [1] * (rank - 1 - int(attribute(node, "axis", 1)) % rank)
    result = w.cast(value, scale.dtype)
    if zeros is not None and zeros.any():
        result = w.op("Sub", result, w.constant(zeros.reshape(shape), scale))
    w.replace(w.op("Mul", result, w.constant(steps.reshape(shape), scale)))
    return True
