"""Say of every node of a graph what quantization did to it, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.passes.constants import is_constant
from trtpipe.passes.decisions import NodeDecision
from trtpipe.passes.graph_pass import node_label
from trtpipe.passes.macs import work_of
from trtpipe.passes.operators import (
    ACTIVATIONS,
    ARITHMETIC,
    CONTAINERS,
    NORMALISATIONS,
    RECURRENT,
    SOFTMAXES,
    is_standard,
    moved_values,
)
from trtpipe.preflight.onnx_io import dtype_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.quantization.plan import Placement

_BY_OPERATOR: tuple[tuple[frozenset[str], str], ...] = (
    (CONTAINERS, "control flow: its body is judged inside"),
    (RECURRENT, "recurrent: its state is fed back, so rounding would add up over the steps"),
    (NORMALISATIONS, "normalization: its sums of squares want range and precision"),
    (SOFTMAXES, "softmax: exponentials want range and precision"),
    (ACTIVATIONS, "activation: fuses with the node before it"),
    (ARITHMETIC, "arithmetic element by element: fuses with its neighbors, and no skip connection ends here"),
)


def record(
    model: ir.Model,
    placement: Placement,
    precisions: Mapping[ir.Node, str],
    failed: Mapping[ir.Node, str],
    sizes: Mapping[str, int],
) -> tuple[NodeDecision, ...]:
    """One decision for every node, in graph order; taken before the graph is rewritten.

    Args:
        placement: what was planned.
        precisions: node -> 8-bit precision, for the nodes that are quantized.
        failed: node -> why a planned node could not be quantized.
        sizes: symbolic dimension -> size, to count multiply-accumulates with.
    """
    points = {point.node: point for point in placement.points}
    carriers = {value for node in precisions for value in points[node].values}
    return tuple(
        NodeDecision(
            node=node_label(node),
            op=node.op_type,
            precision=precisions.get(node) or _computes_in(node),
            reason=points[node].rule
            if node in precisions
            else failed.get(node) or _why_high(node, placement, carriers),
            macs=None if (work := work_of(node, sizes)) is None else work.macs,
        )
        for node in model.graph.all_nodes()
    )


def _why_high(node: ir.Node, placement: Placement, carriers: set[ir.Value]) -> str:
    if node in placement.high:
        return placement.high[node]
    if node.op_type in CONTAINERS:
        return "control flow: its body is judged inside"
    if all(value.dtype is not None and value.dtype != ir.DataType.FLOAT for value in node.outputs):
        return "works on no float32 values: shapes, indices, masks, or what the model itself keeps in another type"
    if node.outputs and all(value in placement.patterns.positions for value in node.outputs):
        return "arithmetic on shapes or positions"
    if not is_standard(node):
        return f"operator of the domain {node.domain!r}, whose meaning is not known"
    if node in placement.patterns.names:
        return f"part of a spelled-out {placement.patterns.names[node]}: fuses as a whole, in high precision"
    if node.op_type == "Gather" and is_constant(node.inputs[0]):
        return "embedding: looks up rows of a table"
    return _by_operator(node, carriers)


def _by_operator(node: ir.Node, carriers: set[ir.Value]) -> str:
    moved = list(moved_values(node))
    if moved:
        if any(value in carriers for value in (*moved, *node.outputs)):
            return "moves values: TensorRT lets the 8 bits of its neighbors pass through"
        return "moves values only"
    for operators, reason in _BY_OPERATOR:
        if node.op_type in operators:
            return reason
    return "no rule quantizes this operator: only weighted ones, and what joins them"


def _computes_in(node: ir.Node) -> str:
    dtype = next((value.dtype for value in node.outputs if value.dtype is not None), None)
    if dtype is None:
        return "unknown"
    return dtype_name(int(dtype))
