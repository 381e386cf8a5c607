"""16-bit nodes that are not worth their casts, or that belong to others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.autocast.data_movement import PURE_MOVES

if TYPE_CHECKING:
    from collections.abc import Mapping

#: operators that do little for each element they touch, so that casting around them costs as much as they do
_CHEAP = PURE_MOVES | {
    "Add", "Sub", "Mul", "Div", "Neg", "Abs", "Relu", "LeakyRelu", "Clip", "Max", "Min", "Where", "Concat", "Sqrt",
    "Reciprocal", "Sigmoid", "Tanh", "Exp", "Log", "Erf", "Sum", "Pad", "Equal", "Greater", "Less",
}  # fmt: skip


def lone_nodes(reasons: Mapping[ir.Node, str | None]) -> dict[ir.Node, str]:
    """Cheap nodes to be lowered whose float32 inputs all come from kept nodes, and whose readers are all kept.

    Args:
        reasons: node -> why it is kept; ``None`` if it is to be lowered.
    """
    found: dict[ir.Node, str] = {}
    for node, reason in reasons.items():
        if reason is None and node.op_type == "DequantizeLinear" and _reader_kept(node, reasons):
            found[node] = "belongs to a node in float32: a cast between them would part them"
        elif reason is None and node.op_type in _CHEAP and _surrounded(node, reasons, found):
            found[node] = "between nodes in float32: two casts would cost more than it"
    return found


def _reader_kept(node: ir.Node, reasons: Mapping[ir.Node, str | None]) -> bool:
    return any(reasons.get(use.node) for use in node.outputs[0].uses())


def _surrounded(node: ir.Node, reasons: Mapping[ir.Node, str | None], found: Mapping[ir.Node, str]) -> bool:
    inputs = [
        value
        for value in node.inputs
        if value is not None and value.dtype == ir.DataType.FLOAT and value.const_value is None
    ]
    makers = [value.producer() for value in inputs]
    if not makers or not all(maker is not None and (reasons.get(maker) or maker in found) for maker in makers):
        return False
    readers = [use.node for value in node.outputs for use in value.uses()]
    public = any(value.is_graph_output() for value in node.outputs)
    return bool(readers) and not public and all(reasons.get(reader) for reader in readers)
