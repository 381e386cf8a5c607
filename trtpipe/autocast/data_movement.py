"""Operators that only move values, and where a value came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

#: operators whose results are all elements of their first input
PURE_MOVES = frozenset(
    {
        "Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Expand", "Tile", "Slice", "Split",
        "Gather", "GatherElements", "GatherND", "DepthToSpace", "SpaceToDepth",
    }
)  # fmt: skip


def origin(value: ir.Value) -> ir.Value:
    """The value whose elements ``value`` shows: moved, and perhaps rounded to 8 bits and back, but not computed."""
    while (node := value.producer()) is not None:
        if node.op_type not in PURE_MOVES and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            break
        source = node.inputs[0]
        if source is None:
            break
        value = source
    return value
