"""Where Q/DQ pairs go: the weighted operators, their activation inputs and their constant weights.

Rules, from NVIDIA's "Working with quantized types" (explicit quantisation): quantise all inputs of weighted operators
(Conv, ConvTranspose, Gemm, MatMul); do not quantise their outputs; put nothing between a convolution, its normalisation
and its activation; one pair per tensor, shared by all its weighted consumers.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.passes.graph_pass import NodeDecision, node_label, owners_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: operator -> index of the weight input, where it is fixed
WEIGHTED = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}


@dataclass(frozen=True)
class QuantPoint:
    """A weighted node that will compute in 8 bits.

    Attributes:
        node: the node.
        activation, weight: indices of its inputs.
        axis: the output-channel axis of the weight, along which scales differ.
    """

    node: ir.Node
    activation: int
    weight: int
    axis: int

    @property
    def tensor(self) -> str:
        """Name of the activation tensor that gets the Q/DQ pair."""
        return self.node.inputs[self.activation].name or ""  # type: ignore[union-attr]


def place(model: ir.Model, keep: Sequence[str] = ()) -> tuple[list[QuantPoint], list[NodeDecision]]:
    """Find the nodes to quantise, in graph order, and say of every other weighted node why it stays high.

    Args:
        model: the simplified model; types must be inferred.
        keep: shell patterns of node names to leave in high precision.
    """
    owners = owners_of(model)
    points: list[QuantPoint] = []
    kept: list[NodeDecision] = []
    for node in model.graph.all_nodes():
        if node.op_type not in WEIGHTED or node.domain not in ("", "ai.onnx"):
            continue
        reason = _kept_by_user(node, keep) or _outside(node, owners)
        point = None if reason else _point(node)
        if isinstance(point, QuantPoint):
            points.append(point)
        else:
            kept.append(
                NodeDecision(node=node_label(node), op=node.op_type, precision="float32", reason=reason or str(point))
            )
    return points, kept


def observed_tensors(points: Sequence[QuantPoint]) -> tuple[str, ...]:
    """Names of the tensors whose ranges are needed, each once, in graph order."""
    return tuple(dict.fromkeys(point.tensor for point in points))


def _kept_by_user(node: ir.Node, keep: Sequence[str]) -> str | None:
    name = node_label(node)
    return next((f"kept by pattern {pattern!r}" for pattern in keep if fnmatchcase(name, pattern)), None)


def _outside(node: ir.Node, owners: Mapping[ir.Graph, ir.Node]) -> str | None:
    """Branches of an If are like the main graph; the body of a loop sees other values in every iteration."""
    graph = node.graph
    while isinstance(graph, ir.Graph) and graph in owners:
        owner = owners[graph]
        if owner.op_type != "If":
            return f"inside the body of a {owner.op_type}"
        graph = owner.graph
    return None


def _point(node: ir.Node) -> QuantPoint | str:
    """The quantisation point of a weighted node, or the reason why it is none."""
    sides = [_constant(value) for value in node.inputs[:2]]
    if node.op_type == "MatMul" and sides == [True, False]:
        activation, weight = 1, 0
    elif sides == [False, True]:
        activation, weight = 0, 1
    else:
        return "both inputs are constant" if all(sides) else "the weight is not a constant of the graph"
    data, kernel = node.inputs[activation], node.inputs[weight]
    if data is None or kernel is None or kernel.const_value is None:
        return "an input is missing"
    if data.dtype != ir.DataType.FLOAT or kernel.dtype != ir.DataType.FLOAT:
        return f"computes in {data.dtype.name.lower() if data.dtype else 'an unknown type'} already"
    rank = len(kernel.const_value.shape)
    if rank < 2:
        return "the weight is a vector, which has no output channels"
    return QuantPoint(node, activation, weight, _channel_axis(node, weight, rank))


def _constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and value.is_initializer()


def _channel_axis(node: ir.Node, weight: int, rank: int) -> int:
    if node.op_type == "Conv":
        return 0  # [out, in / group, ...]
    if node.op_type == "ConvTranspose":
        return 1  # [in, out / group, ...]
    if node.op_type == "Gemm":
        transposed = node.attributes.get("transB")
        return 0 if transposed is not None and transposed.as_int() else 1
    return rank - 1 if weight == 1 else rank - 2  # MatMul: columns of B, rows of A
