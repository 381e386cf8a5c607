"""Where Q/DQ pairs go: which inputs of which nodes are read in 8 bits.

Rules, from NVIDIA's "Working with Quantized Types", on the placement of Q/DQ: quantize all inputs of weighted operators
(Conv, ConvTranspose, Gemm, MatMul) and not their outputs; put nothing between a convolution, its normalization and its
activation; quantize the skip input of a residual Add; of the layers without a weight quantize inputs and outputs
together; one pair per tensor; equal scales where values only move. docs/lowering.md tells them one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.passes.constants import is_constant
from trtpipe.passes.cost_thresholds import does_not_pay, left_high
from trtpipe.passes.graph_pass import node_label, owners_of
from trtpipe.passes.macs import Work, work_of
from trtpipe.passes.node_names import pattern_of
from trtpipe.passes.operators import POOLS, PRODUCTS, WEIGHTED, is_standard, moved_values
from trtpipe.quantization.patterns import Patterns, recognize
from trtpipe.quantization.residual import skip_input
from trtpipe.quantization.scale_groups import scale_groups

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Activations that fuse into the kernel before them and leave its result fit for 8 bits.
_CLIPPING = frozenset({"Relu", "LeakyRelu", "Clip"})
#: Why the two products of an attention stay high; measured, see docs/lowering.md.
ATTENTION_HIGH = "product of attention: fuses with its softmax into one kernel only in high precision"
ATTENTION_LOW = "a product of attention: both inputs"


@dataclass(frozen=True)
class QuantPoint:
    """A node that reads some of its inputs in 8 bits.

    Attributes:
        node: the node.
        activations: indices of the inputs that get a Q/DQ pair.
        weight: index of the constant that is stored in 8 bits; ``None`` where there is none.
        axis: the output-channel axis of the weight, along which scales differ.
        rule: why.
    """

    node: ir.Node
    activations: tuple[int, ...]
    rule: str
    weight: int | None = None
    axis: int = 0

    @property
    def values(self) -> tuple[ir.Value, ...]:
        """The activations that get a pair, each once."""
        found = (self.node.inputs[index] for index in self.activations)
        return tuple(dict.fromkeys(value for value in found if value is not None))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(value.name or "" for value in self.values)


@dataclass(frozen=True)
class Placement:
    """The plan for a whole model.

    Attributes:
        points: the nodes to quantize, in graph order.
        high: why nodes that were considered stay high.
        groups: names of tensors that share one scale.
        works: the work of every weighted node whose shapes are known.
        patterns: what was recognized on the way.
    """

    points: tuple[QuantPoint, ...]
    high: dict[ir.Node, str]
    groups: tuple[tuple[str, ...], ...]
    works: dict[ir.Node, Work]
    patterns: Patterns

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors that carry a pair, whose ranges are needed: each once, in graph order."""
        return tuple(dict.fromkeys(name for point in self.points for name in point.tensors))


def place(
    model: ir.Model,
    keep: Sequence[str] = (),
    *,
    thrifty: bool = True,
    attention: bool = False,
    left: Mapping[str, str] | None = None,
) -> Placement:
    """Decide what to quantize.

    Args:
        model: the simplified model; types must be inferred, and shapes where the thresholds of cost shall hold.
        keep: shell patterns of node names to leave in high precision.
        thrifty: whether nodes for which 8 bits do not pay stay high. That depends on the shapes a model is used at;
            without it the plan is all that may be in 8 bits at any shapes.
        attention: whether the two products of an attention may be in 8 bits. Whether they gain by it depends on the
            builder and the size of the heads, so only who asks a builder should say yes.
        left: name of a node to leave in high precision -> why.
    """
    plan = _Plan(recognize(model), tuple(keep), owners_of(model), attention, left or {})
    nodes = list(model.graph.all_nodes())
    for node in nodes:
        plan.weighted(node)
    if thrifty:
        plan.drop_what_does_not_pay()
    for node in nodes:
        plan.joining(node)
    order = {node: position for position, node in enumerate(nodes)}
    points = tuple(sorted(plan.points.values(), key=lambda point: order[point.node]))
    quantized = list(dict.fromkeys(value for point in points for value in point.values))
    return Placement(points, plan.high, scale_groups(quantized), plan.works, plan.patterns)


@dataclass
class _Plan:
    """The plan in the making."""

    patterns: Patterns
    keep: tuple[str, ...]
    owners: Mapping[ir.Graph, ir.Node]
    attention: bool
    left: Mapping[str, str]
    points: dict[ir.Node, QuantPoint] = field(default_factory=dict)
    high: dict[ir.Node, str] = field(default_factory=dict)
    works: dict[ir.Node, Work] = field(default_factory=dict)

    def weighted(self, node: ir.Node) -> None:
        """A Conv, ConvTranspose, Gemm or MatMul: all its inputs."""
        if node.op_type not in WEIGHTED or not is_standard(node):
            return
        if (work := work_of(node)) is not None:
            self.works[node] = work
        reason = self._refused(node) or self._counts(node, work)
        point = reason or _weighted_point(node)
        if isinstance(point, QuantPoint) and node in self._products_of_attention():
            point = replace(point, rule=ATTENTION_LOW) if self.attention else ATTENTION_HIGH
        if isinstance(point, QuantPoint):
            self.points[node] = point
        else:
            self.high[node] = point

    def drop_what_does_not_pay(self) -> None:
        """Leave cheap nodes high for which 8 bits are no gain."""
        reasons = {node: why for node in self.points if (why := does_not_pay(self.works.get(node))) is not None}
        # what ``left`` names was judged beside the rest of the plan, which must not change for it
        chosen = {node for node in self.high if node_label(node) in self.left}
        fixed = sum(work.macs for node, work in self.works.items() if node in self.high and node not in chosen)
        for node, reason in left_high(list(self.points), self.works, reasons, fixed).items():
            self.high[node] = reason
            del self.points[node]

    def joining(self, node: ir.Node) -> None:
        """An Add or a pool that joins its neighbors in 8 bits."""
        if node.op_type not in POOLS | {"Add"} or not is_standard(node):
            return
        if not all(value is not None and value.dtype == ir.DataType.FLOAT for value in node.inputs):
            return
        index = skip_input(node) if node.op_type == "Add" else 0
        if index is None:
            return
        reason = self._refused(node)
        if reason is None and not self._read_in_8_bits(node.outputs[0]):
            reason = "its result is not read in 8 bits, so high precision costs nothing"
        if node.op_type == "Add":
            rule = "the skip input of a residual Add whose sum is read in 8 bits"
        else:
            rule = "a pool between tensors that are in 8 bits anyway"
            if reason is None and not self._carries_pair(node.inputs[0]):
                reason = "its input is not in 8 bits for another reader"
        if reason is None:
            self.points[node] = QuantPoint(node, (index,), rule)
        else:
            self.high[node] = reason

    def _refused(self, node: ir.Node) -> str | None:
        """Why no rule applies to ``node`` at all."""
        name = node_label(node)
        if (pattern := pattern_of(name, self.keep)) is not None:
            return f"kept by pattern {pattern!r}"
        return self.left.get(name) or _unobservable(node, self.owners)

    def _counts(self, node: ir.Node, work: Work | None) -> str | None:
        """Whether ``node`` computes with shapes and positions, or sums over nothing, as positions times frequencies."""
        given = [value for value in node.inputs[:2] if value is not None and not is_constant(value)]
        if given and all(value in self.patterns.positions for value in given):
            return "arithmetic on shapes or positions"
        if work is not None and work.depth == 1 and not work.channelwise:
            return "an outer product: it sums over nothing"
        return None

    def _products_of_attention(self) -> frozenset[ir.Node]:
        return frozenset(node for found in self.patterns.attentions for node in (found.scores, found.context))

    def _read_in_8_bits(self, value: ir.Value) -> bool:
        """Whether a quantized node reads ``value``, directly or by way of activations and moves."""
        queue, seen = [value], {value}
        for current in queue:
            for use in current.uses():
                user = use.node
                point = self.points.get(user)
                if point is not None and use.idx in point.activations and user.op_type in WEIGHTED:
                    return True
                if user.op_type in _CLIPPING or current in moved_values(user):
                    new = [output for output in user.outputs if output not in seen]
                    queue.extend(new)
                    seen.update(new)
        return False

    def _carries_pair(self, value: ir.Value | None) -> bool:
        uses = value.uses() if value is not None else ()
        points = ((self.points.get(use.node), use.idx) for use in uses)
        return any(point is not None and index in point.activations for point, index in points)


def _unobservable(node: ir.Node, owners: Mapping[ir.Graph, ir.Node]) -> str | None:
    """Why no range can be found for what ``node`` reads: it lies in a body out of which no values can be brought."""
    graph, inside_if = node.graph, False
    while isinstance(graph, ir.Graph) and graph in owners:
        owner = owners[graph]
        if owner.op_type not in ("If", "Loop", "Scan"):
            return f"inside the body of a {owner.op_type}, where no ranges can be observed"
        if owner.op_type == "Scan" and inside_if:
            return "inside an If in a Scan, where no ranges can be observed"
        inside_if |= owner.op_type == "If"
        graph = owner.graph
    return None


def _weighted_point(node: ir.Node) -> QuantPoint | str:
    """The quantization of a weighted node, or the reason why it stays high."""
    data, kernel = node.inputs[0], node.inputs[1]
    if data is None or kernel is None:
        return "an input is missing"
    if data.dtype != ir.DataType.FLOAT or kernel.dtype != ir.DataType.FLOAT:
        return f"computes in {data.dtype.name.lower() if data.dtype else 'an unknown type'} already"
    if any((made := value.producer()) and made.op_type == "DequantizeLinear" for value in (data, kernel)):
        return "the model itself quantizes what it reads"
    constants = [is_constant(data), is_constant(kernel)]
    if all(constants):
        return "both inputs are constant"
    if not any(constants):
        if node.op_type not in PRODUCTS:
            return "its weight is computed, not a constant"
        return QuantPoint(node, (0, 1), "a product of two activations: both inputs")
    weight = constants.index(True)
    if weight == 0 and node.op_type != "MatMul":
        return "its weight is computed, not a constant"
    return _with_weight(node, weight)


def _with_weight(node: ir.Node, weight: int) -> QuantPoint | str:
    kernel = node.inputs[weight]
    assert kernel is not None
    assert kernel.const_value is not None
    rank = len(kernel.const_value.shape)
    if rank < 2:
        return "its weight is a vector, which has no output channels"
    return QuantPoint(
        node, (1 - weight,), "weighted operator with a constant weight", weight, _channel_axis(node, weight, rank)
    )


def _channel_axis(node: ir.Node, weight: int, rank: int) -> int:
    if node.op_type == "Conv":
        return 0  # [out, in / group, ...]
    if node.op_type == "ConvTranspose":
        return 1  # [in, out / group, ...]
    if node.op_type == "Gemm":
        transposed = node.attributes.get("transB")
        return 0 if transposed is not None and transposed.as_int() else 1
    return rank - 1 if weight == 1 else rank - 2  # MatMul: columns of B, rows of A
