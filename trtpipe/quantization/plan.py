"""The plan of a quantization: which inputs of which nodes are quantized, and why all others are not.

A ``QuantizationPlan`` is a value that names nodes and tensors and holds no graph, so one plan serves every copy of a
graph: it is made once, and the Q/DQ writer, the simulator and all searches take a plan and give a plan.

Rules, from NVIDIA's "Working with Quantized Types", on the placement of Q/DQ: quantize all inputs of weighted operators
(Conv, ConvTranspose, Gemm, MatMul) and not their outputs; put nothing between a convolution, its normalization and its
activation; quantize the skip input of a residual Add; of the layers without a weight quantize inputs and outputs
together; one pair per tensor; equal scales where values only move. docs/lowering.md tells them one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import onnx_ir as ir

from trtpipe.calibration.corrections import Corrections
from trtpipe.config.formats import FP32, Format
from trtpipe.passes.constants import is_constant
from trtpipe.passes.decisions import KEPT, UNREACHED
from trtpipe.passes.graph_pass import enclosing, node_label, owners_of, reached, result_of
from trtpipe.passes.macs import sizes_of, skipped, unprofitable, work_of
from trtpipe.passes.node_names import pattern_of
from trtpipe.passes.operators import POOLS, PRODUCTS, WEIGHTED, is_standard, moved_values
from trtpipe.quantization.patterns import Patterns, recognize, skip_input

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from trtpipe.calibration.corrections import Smoothing
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.config.recipe import WeightMethod
    from trtpipe.config.stage_settings import QuantizationSettings
    from trtpipe.passes.macs import Work

_Key = TypeVar("_Key", bound="Hashable")
#: Activations that fuse into the kernel before them and leave its result fit for quantization.
_CLIPPING = frozenset({"Relu", "LeakyRelu", "Clip"})
#: Why the two products of an attention are not quantized; measured, see docs/lowering.md.
ATTENTION_KEPT = "product of attention: fuses with its softmax into one kernel only in higher precision"
#: Tensors whose ranges differ by this factor share no scale.
_FAR = 0.01
ATTENTION_RULE = "a product of attention: both inputs"


@dataclass(frozen=True)
class QuantPoint:
    """A node that reads some of its inputs quantized.

    Attributes:
        node: its label, as reports and ``keep`` patterns name it; nodes of different bodies may share one.
        result: name of its first output, which no other value has.
        op: its operator.
        activations: indices of the inputs that get a Q/DQ pair.
        inputs: names of these inputs, one for each index.
        rule: why.
        weight: index of the constant that is stored quantized; ``None`` where there is none.
        kernel: name of that constant.
        axis: the output-channel axis of the weight, along which scales differ.
    """

    node: str
    result: str
    op: str
    activations: tuple[int, ...]
    inputs: tuple[str, ...]
    rule: str
    weight: int | None = None
    kernel: str = ""
    axis: int = 0

    @property
    def tensors(self) -> tuple[str, ...]:
        """The activations that get a pair, each once."""
        return tuple(dict.fromkeys(self.inputs))


@dataclass(frozen=True)
class _Joining:
    """An Add or a pool, which is quantized only where its neighbors are.

    Attributes:
        result: of the node.
        readers: (result of a weighted node, tensor it reads): one of them quantized makes ``result`` be read quantized.
        sharers: of a pool, results of nodes one of which has to read its input quantized too; ``None`` for an Add.
    """

    result: str
    readers: frozenset[tuple[str, str]]
    sharers: frozenset[str] | None


@dataclass(frozen=True)
class QuantizationPlan:
    """What is quantized, in one value. ``keep`` alone changes the points, and only ever to fewer.

    Attributes:
        format: what points are quantized to.
        scales: the format in which TensorRT will hold the scales. They are written as float32, rounded to it before
            anything is quantized with them.
        weights: how the scales of weights are chosen.
        points: the nodes that are quantized, in graph order.
        kept: every node that was considered and is kept in higher precision -> why.
        macs: result of a weighted node whose shapes are known -> its multiply-accumulates.
        amax: tensor -> its largest magnitude that counts; empty before ``with_ranges``.
        corrections: what is done besides; empty before ``with_corrections``.
        smoothable: the points when the corrections were found, which decide what can be smoothed.
        split_scales: whether convolutions get one scale for their weight, and the channels' own behind them.

    Example:
        >>> plan(model, settings).keep({"/head/Conv": "sensitive"}).kept["/head/Conv"]
        'sensitive'
    """

    format: Format
    scales: Format
    weights: WeightMethod
    points: tuple[QuantPoint, ...]
    kept: Mapping[str, str]
    macs: Mapping[str, int]
    amax: Mapping[str, float] = field(default_factory=dict)
    corrections: Corrections = field(default_factory=Corrections)
    smoothable: tuple[QuantPoint, ...] = ()
    split_scales: bool = False
    _joinings: tuple[_Joining, ...] = ()
    _sources: Mapping[str, frozenset[str]] = field(default_factory=dict)
    _inserted: frozenset[str] = frozenset()

    @property
    def nodes(self) -> frozenset[str]:
        """Labels of the points."""
        return frozenset(point.node for point in self.points)

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """The tensors that carry a pair, whose ranges are needed: each once, in graph order."""
        return tuple(dict.fromkeys(name for point in self.points for name in point.inputs))

    @cached_property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Tensors that share one scale: those between which values only move, Concat included.

        TensorRT moves a Q back through nodes that only move values, and merges it with the one it meets there, if
        their scales are equal; otherwise both stay as kernels of their own (NVIDIA, "Working with Quantized Types").
        A part whose range is a hundredth of the whole's, or less, keeps its own: it would be left a step or two.
        """
        names = dict.fromkeys(name for name in self.tensors if name not in self._inserted)
        leader = leaders(
            (name, *(each for each in self._sources.get(name, frozenset()) & names.keys() if self._alike(name, each)))
            for name in names
        )
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(leader[name], []).append(name)
        return tuple(tuple(group) for group in groups.values() if len(group) > 1)

    def _alike(self, first: str, second: str) -> bool:
        """Whether one scale serves both tensors; of one without a range nothing is known."""
        ranges = [self.amax[name] for name in (first, second) if self.amax.get(name)]
        return len(ranges) < 2 or min(ranges) > _FAR * max(ranges)

    @cached_property
    def limits(self) -> dict[str, float]:
        """``amax``, with every group's largest for each of its members; tensors without a range are not in it."""
        joint = dict(self.amax)
        for group in self.groups:
            known = [self.amax[name] for name in group if name in self.amax]
            joint |= {name: max(known) for name in group if name in self.amax}
        return joint

    def keep(self, reasons: Mapping[str, str]) -> QuantizationPlan:
        """The plan without these nodes, and without the Adds and pools that joined them.

        Args:
            reasons: label of a node -> why it is kept in higher precision; nodes that are no points are ignored.
        """
        return self._without({point: reasons[point.node] for point in self.points if point.node in reasons})

    def keep_all_but(self, nodes: Iterable[str], reason: str) -> QuantizationPlan:
        """The plan with no points but ``nodes``."""
        return self.keep(dict.fromkeys(sorted(self.nodes.difference(nodes)), reason))

    @property
    def attention(self) -> frozenset[str]:
        """The points that are products of attention."""
        return frozenset(point.node for point in self.points if point.rule == ATTENTION_RULE)

    def with_ranges(self, amax: Mapping[str, float], reasons: Mapping[str, str] | None = None) -> QuantizationPlan:
        """The plan with ranges; without the nodes whose inputs have none, were always 0, or need a scale that
        ``scales`` does not hold with all digits.

        Args:
            amax: tensor -> its largest magnitude that counts.
            reasons: tensor -> why it has no range.
        """
        found = replace(self, amax=dict(amax))
        while refused := {
            point: why for point in found.points if (why := found._without_range(point, reasons or {})) is not None
        }:
            found = found._without(refused)
        return found

    def with_corrections(self, corrections: Corrections) -> QuantizationPlan:
        """The plan with corrections, which were found for its points; without the nodes they keep."""
        return replace(self, corrections=corrections, smoothable=self.points).keep(corrections.kept)

    def calibrated(self, ranges: Ranges) -> QuantizationPlan:
        """The plan with all that calibration found."""
        amax = {name: found.amax for name, found in ranges.tensors.items()}
        reasons = {**ranges.not_quantizable, **dict.fromkeys(ranges.unseen, UNREACHED)}
        return self.with_ranges(amax, reasons).with_corrections(ranges.corrections)

    def smoothed(self, tensors: Mapping[str, Smoothing]) -> QuantizationPlan:
        """The plan of the graph in which these are smoothed; readers read on behind inserted multiplications."""
        amax = {**self.amax, **{name: each.amax for name, each in tensors.items()}}
        inserted = frozenset(name for name, each in tensors.items() if each.inserted)
        return replace(self, amax=amax, _inserted=inserted)._without({})

    def _without_range(self, point: QuantPoint, reasons: Mapping[str, str]) -> str | None:
        for name in point.tensors:
            limit = self.limits.get(name)
            if limit is None:
                return reasons.get(name, f"no range for {name!r}: no calibration data reached it")
            if not limit:
                return f"its input {name!r} was zero in all samples"
            if self.scales is not FP32 and limit / self.format.largest < self.scales.normal:
                return f"its input {name!r} is so small that its scale would lose digits in {self.scales.storage}"
        return None

    def _without(self, reasons: Mapping[QuantPoint, str]) -> QuantizationPlan:
        """Leave out points, and then every Add and pool whose neighbors are not quantized."""
        dropped = dict(reasons)
        points = {point.result: point for point in self.points if point not in dropped}
        left = {result for result, point in points.items() if point.op in WEIGHTED}
        for joining in self._joinings:
            if joining.result not in points:
                continue
            if not any(reader in left and tensor not in self._inserted for reader, tensor in joining.readers):
                dropped[points[joining.result]] = (
                    "no quantized consumer reads its result, so higher precision costs nothing"
                )
            elif joining.sharers is not None and not joining.sharers & left:
                dropped[points[joining.result]] = "its input is not quantized for another reader"
            else:
                left.add(joining.result)
        kept = {point.node: reason for point, reason in dropped.items()}
        left_points = tuple(point for point in self.points if point.result in left)
        return replace(self, points=left_points, kept={**self.kept, **kept})


def plan(model: ir.Model, settings: QuantizationSettings, *, skip_unprofitable: bool = True) -> QuantizationPlan:
    """Decide what to quantize.

    Args:
        model: the simplified model; types must be inferred, and shapes where the thresholds of cost shall hold. It
            is not changed.
        settings: what is asked for.
        skip_unprofitable: whether nodes are skipped for which quantization is not profitable. That depends on the
            shapes a model is used at; without it the plan is all that may be quantized at any shapes.
    """
    found = _Analysis(model, settings)
    for node in found.nodes:
        found.weighted(node)
    if skip_unprofitable:
        found.skip_unprofitable()
    for node in found.nodes:
        found.joining(node)
    precision = settings.precision
    everything = QuantizationPlan(
        format=precision.quantized_format,
        scales=precision.half or FP32,
        weights=settings.weights,
        points=tuple(found.points[node] for node in found.nodes if node in found.points),
        kept={node_label(node): reason for node, reason in found.kept.items()},
        macs=found.macs,
        _joinings=tuple(found.joinings),
        _sources=found.sources(),
    )._without({})
    if settings.int8_nodes is None:
        return everything
    named = {node for node in everything.nodes if pattern_of(node, settings.int8_nodes) is not None}
    return everything.keep_all_but(named, f"not among the nodes that may compute in {precision.quantized_format}")


def leaders(links: Iterable[Sequence[_Key]]) -> dict[_Key, _Key]:
    """Every key -> one of those it is linked with, directly or by way of others: the same one for all of these."""
    leader: dict[_Key, _Key] = {}

    def find(key: _Key) -> _Key:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    for link in links:
        for key in link:
            leader[find(key)] = find(link[0])
    return {key: find(key) for key in leader}


def bound(model: ir.Model, points: Iterable[QuantPoint]) -> list[tuple[QuantPoint, ir.Node]]:
    """The points with their nodes in a copy of the graph that was planned."""
    nodes = {result_of(node): node for node in model.graph.all_nodes()}
    return [(point, nodes[point.result]) for point in points]


class _Analysis:
    """A graph, and what is known of its nodes so far."""

    def __init__(self, model: ir.Model, settings: QuantizationSettings) -> None:
        self.nodes = list(model.graph.all_nodes())
        self.points: dict[ir.Node, QuantPoint] = {}
        self.kept: dict[ir.Node, str] = {}
        self.joinings: list[_Joining] = []
        self._keep, self._attention = settings.keep, settings.attention
        self._owners = owners_of(model)
        self._patterns = recognize(model)
        self._works: dict[ir.Node, Work] = {}
        sizes = sizes_of(model, settings.shapes)
        works = ((node, work_of(node, sizes)) for node in self.nodes)
        self.macs = {result_of(node): work.macs for node, work in works if work is not None}

    def weighted(self, node: ir.Node) -> None:
        """A Conv, ConvTranspose, Gemm or MatMul: all its inputs."""
        if node.op_type not in WEIGHTED or not is_standard(node):
            return
        if (work := work_of(node)) is not None:
            self._works[node] = work
        point = self._refused(node) or _of_positions(node, work, self._patterns) or _weighted_point(node)
        if isinstance(point, QuantPoint) and node in self._patterns.products_of_attention:
            point = replace(point, rule=ATTENTION_RULE) if self._attention else ATTENTION_KEPT
        if isinstance(point, QuantPoint):
            self.points[node] = point
        else:
            self.kept[node] = point

    def skip_unprofitable(self) -> None:
        """Keep cheap nodes in higher precision for which quantization is no gain."""
        reasons = {node: why for node in self.points if (why := unprofitable(self._works.get(node))) is not None}
        kept = sum(work.macs for node, work in self._works.items() if node in self.kept)
        for node, reason in skipped(list(self.points), self._works, reasons, kept).items():
            self.kept[node] = reason
            del self.points[node]

    def joining(self, node: ir.Node) -> None:
        """An Add or a pool that joins its neighbors."""
        if node.op_type not in POOLS | {"Add"} or not is_standard(node):
            return
        if not all(value is not None and value.dtype == ir.DataType.FLOAT for value in node.inputs):
            return
        index = skip_input(node) if node.op_type == "Add" else 0
        if index is None:
            return
        if (reason := self._refused(node)) is not None:
            self.kept[node] = reason
            return
        rule, sharers = "the skip input of a residual Add whose sum is read quantized", None
        value = node.inputs[index]
        assert value is not None
        if node.op_type != "Add":
            rule = "a pool between tensors that are quantized anyway"
            sharers = frozenset(result_of(user) for user in self._quantized_users(value))
        self.joinings.append(_Joining(result_of(node), self._readers(node.outputs[0]), sharers))
        self.points[node] = _point(node, (index,), rule)

    def sources(self) -> dict[str, frozenset[str]]:
        """Tensor of a point -> tensors of points whose elements it consists of, by way of nodes that only move them."""
        values = {
            value: str(value.name)
            for node, point in self.points.items()
            for index in point.activations
            if (value := node.inputs[index]) is not None
        }
        return {name: frozenset(values[each] for each in reached(value, _moved_from)[1:] if each in values)
                for value, name in values.items()}  # fmt: skip

    def _refused(self, node: ir.Node) -> str | None:
        """Why no rule applies to ``node`` at all."""
        if (pattern := pattern_of(node_label(node), self._keep)) is not None:
            return f"{KEPT} {pattern!r}"
        return _unobservable(node, self._owners)

    def _readers(self, value: ir.Value) -> frozenset[tuple[str, str]]:
        """Weighted nodes that may read ``value`` quantized, directly or by way of activations and moves; and what each
        of them reads.
        """
        return frozenset(
            (result_of(user), str(current.name))
            for current in reached(value, _passed_on)
            for user in self._quantized_users(current)
            if user.op_type in WEIGHTED
        )

    def _quantized_users(self, value: ir.Value) -> list[ir.Node]:
        """The points so far that read ``value`` quantized."""
        uses = ((use.node, self.points.get(use.node), use.idx) for use in value.uses())
        return [node for node, point, index in uses if point is not None and index in point.activations]


def _point(
    node: ir.Node, activations: tuple[int, ...], rule: str, weight: int | None = None, axis: int = 0
) -> QuantPoint:
    names = ["" if value is None else str(value.name) for value in node.inputs]
    return QuantPoint(
        node=node_label(node),
        result=result_of(node),
        op=node.op_type,
        activations=activations,
        inputs=tuple(names[index] for index in activations),
        rule=rule,
        weight=weight,
        kernel="" if weight is None else names[weight],
        axis=axis,
    )


def _of_positions(node: ir.Node, work: Work | None, patterns: Patterns) -> str | None:
    """Whether ``node`` computes with shapes and positions, or sums over nothing, as positions times frequencies."""
    given = [value for value in node.inputs[:2] if value is not None and not is_constant(value)]
    if given and all(value in patterns.positions for value in given):
        return "arithmetic on shapes or positions"
    if work is not None and work.depth == 1 and not work.channelwise:
        return "an outer product: it sums over nothing"
    return None


def _moved_from(value: ir.Value) -> Iterable[ir.Value]:
    """The values whose elements ``value`` consists of, where a node only moves them."""
    node = value.producer()
    return () if node is None else moved_values(node)


def _passed_on(value: ir.Value) -> Iterable[ir.Value]:
    """The results of activations, and of nodes that only move ``value``."""
    users = (use.node for use in value.uses())
    return (made for user in users if user.op_type in _CLIPPING or value in moved_values(user) for made in user.outputs)


def _unobservable(node: ir.Node, owners: Mapping[ir.Graph, ir.Node]) -> str | None:
    """Why no range can be found for what ``node`` reads: it lies in a body out of which no values can be brought."""
    inside_if = False
    for owner in enclosing(node, owners):
        if owner.op_type not in ("If", "Loop", "Scan"):
            return f"inside the body of a {owner.op_type}, where no ranges can be observed"
        if owner.op_type == "Scan" and inside_if:
            return "inside an If in a Scan, where no ranges can be observed"
        inside_if |= owner.op_type == "If"
    return None


def _weighted_point(node: ir.Node) -> QuantPoint | str:
    """The quantization of a weighted node, or the reason why there is none."""
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
        return _point(node, (0, 1), "a product of two activations: both inputs")
    weight = constants.index(True)
    if weight == 0 and node.op_type != "MatMul":
        return "its weight is computed, not a constant"
    constant = (data, kernel)[weight].const_value
    rank = 0 if constant is None else len(constant.shape)
    if rank < 2:
        return "its weight is a vector, which has no output channels"
    axis = _channel_axis(node, weight, rank)
    return _point(node, (1 - weight,), "Conv/GEMM with constant weight", weight, axis)


def _channel_axis(node: ir.Node, weight: int, rank: int) -> int:
    if node.op_type == "Conv":
        return 0  # [out, in / group, ...]
    if node.op_type == "ConvTranspose":
        return 1  # [in, out / group, ...]
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) != 0 else 1
    return rank - 1 if weight == 1 else rank - 2  # MatMul: columns of B, rows of A
