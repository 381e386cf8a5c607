"""Say of every node of a graph what quantization did to it, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.config.formats import FP32
from trtpipe.passes import operators
from trtpipe.passes.constants import is_constant
from trtpipe.passes.decisions import NodeDecision
from trtpipe.passes.graph_pass import node_label, result_of
from trtpipe.passes.macs import recurrent_macs
from trtpipe.passes.operators import is_standard, moved_values
from trtpipe.preflight.onnx_io import dtype_name
from trtpipe.quantization.patterns import recognize
from trtpipe.quantization.plan import bound

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from trtpipe.quantization.patterns import Patterns
    from trtpipe.quantization.plan import QuantizationPlan

_BY_OPERATOR: tuple[tuple[frozenset[str], str], ...] = (
    (operators.RECURRENT, "recurrent: its state is fed back, so rounding would add up over the steps"),
    (operators.NORMALISATIONS, "normalization: its sums of squares want range and precision"),
    (operators.SOFTMAXES, "softmax: exponentials want range and precision"),
    (operators.ACTIVATIONS, "activation: fuses with the node before it"),
    (operators.ARITHMETIC, "arithmetic element by element: fuses with its neighbors, and no skip connection ends here"),
)


def record(model: ir.Model, plan: QuantizationPlan) -> tuple[NodeDecision, ...]:
    """One decision for every node, in graph order; taken before the graph is rewritten."""
    points = {node: point for point, node in bound(model, plan.points)}
    quantized_values = {node.inputs[index] for node, point in points.items() for index in point.activations}
    patterns = recognize(model)
    return tuple(
        NodeDecision(
            node=node_label(node),
            op=node.op_type,
            precision=plan.format.label if node in points else _computes_in(node),
            reason=points[node].rule
            if node in points
            else plan.kept.get(node_label(node)) or _why_not_quantizable(node, patterns, quantized_values),
            macs=plan.macs.get(result_of(node), recurrent_macs(node)),
        )
        for node in model.graph.all_nodes()
    )


def _why_not_quantizable(node: ir.Node, patterns: Patterns, quantized_values: set[ir.Value | None]) -> str:
    if node.op_type in operators.CONTAINERS:
        return "control flow: the nodes of its body have reasons of their own"
    if all(value.dtype is not None and value.dtype != ir.DataType.FLOAT for value in node.outputs):
        return "works on no float32 values: shapes, indices, masks, or what the model itself keeps in another type"
    if node.outputs and all(value in patterns.positions for value in node.outputs):
        return "arithmetic on shapes or positions"
    if not is_standard(node):
        return f"operator of the domain {node.domain!r}, whose meaning is not known"
    if node in patterns.names:
        return f"part of a spelled-out {patterns.names[node]}: fuses as a whole, in higher precision"
    if node.op_type == "Gather" and is_constant(node.inputs[0]):
        return "embedding: looks up rows of a table"
    return _by_operator(node, quantized_values)


def _by_operator(node: ir.Node, quantized_values: set[ir.Value | None]) -> str:
    moved = list(moved_values(node))
    if moved:
        quantized = any(value in quantized_values for value in (*moved, *node.outputs))
        return "data-movement op" + (": TensorRT moves quantized values through it" if quantized else "")
    for kind, reason in _BY_OPERATOR:
        if node.op_type in kind:
            return reason
    return "no rule quantizes this operator: only weighted ones, and what joins them"


def _computes_in(node: ir.Node) -> str:
    return next((dtype_name(int(value.dtype)) for value in node.outputs if value.dtype is not None), "unknown")


def merged(
    quantized: Sequence[NodeDecision], half: Sequence[NodeDecision], nodes: Collection[str]
) -> tuple[NodeDecision, ...]:
    """What became of each of ``nodes``: where quantization was refused, both reasons.

    Args:
        quantized: the decisions about quantization.
        half: the decisions about 16 bits, taken after them, also about nodes that are not among ``nodes``.
    """
    by_name = {decision.node: decision for decision in quantized}
    return tuple(_both(by_name.get(decision.node), decision) for decision in half if decision.node in nodes)


def _both(quantized: NodeDecision | None, half: NodeDecision) -> NodeDecision:
    if quantized is None:
        return half
    if quantized.precision != FP32.label:
        return quantized.model_copy(update={"reason": f"{quantized.reason}; its results are {half.precision}"})
    if quantized.macs is None:  # no candidate for quantization
        return half
    return half.model_copy(
        update={"reason": f"{half.reason}; not quantized: {quantized.reason}", "macs": quantized.macs}
    )
