"""The graph of the fake-quantization simulator: every point in float32 and lowered, every activation scale an input.

Where few values cross, it is partitioned, so that what comes behind can be run from stored values again and again.

A point becomes an If whose branches hold the node as it was, and the node lowered: with its Q/DQ pair and its quantized
weight exactly as ``InsertQDQ`` writes them, or rounded to float16. Both sets of weights together are the memory of two
models. Any choice of nodes and of ranges is a few conditions and fed numbers away: weights are quantized once.

Conditions are set before a graph is loaded (``resolve``), so that a runtime fuses what it would fuse: measured with
onnxruntime 1.32, boolean inputs cost up to 2.2 times as much. Scales are inputs because many ranges are compared with
all nodes lowered, and a number that is fed costs nothing, where a constant would mean to load the graph again. A scale
cannot do what a condition does: no scale lets values pass unrounded, and the weight would stay rounded in any case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir

from trtpipe.calibration.corrections import unpacked
from trtpipe.passes.constants import add_constant
from trtpipe.passes.graph_pass import FreshNames, bodies_of, node_label
from trtpipe.quantization.bias_correction import correctable
from trtpipe.quantization.plan import bound, leaders
from trtpipe.quantization.qdq import quantized_kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    import onnx

    from trtpipe.config.formats import Format
    from trtpipe.quantization.plan import QuantizationPlan, QuantPoint


#: Shares of all work before a partition that are aimed at.
_SHARES = (0.25, 0.5, 0.75)
#: Values that cross a partition at most.
_MOST_VALUES = 4


def group_points(plan: QuantizationPlan) -> tuple[tuple[QuantPoint, ...], ...]:
    """Points that change their precision together, in graph order: those that read one tensor, whose one pair they
    share; that share a weight; or whose tensors share one scale.
    """
    links: list[Sequence[object]] = [*plan.groups]
    for point in plan.points:
        kernel = [("weight", point.kernel)] if point.kernel else []
        links.append((("node", point.result), *point.tensors, *kernel))
    leader = leaders(links)
    members: dict[object, list[QuantPoint]] = {}
    for point in plan.points:
        members.setdefault(leader["node", point.result], []).append(point)
    return tuple(map(tuple, members.values()))


@dataclass(frozen=True)
class Branch:
    """Where a lowered clone of a node stands.

    Attributes:
        body: the branch.
        root: the main graph, which holds all constants: a body's own would be stored inside the file, and hidden from
            whoever asks which types a model has.
    """

    body: ir.Graph
    root: ir.Graph
    fresh: FreshNames

    def insert(
        self, node: ir.Node, op: str, inputs: Sequence[ir.Value], dtype: ir.DataType, *attributes: ir.Attr
    ) -> ir.Value:
        """A new node behind the one in this branch that makes its first input, or else before ``node``; its output."""
        output = ir.val(self.fresh(f"{op.lower()}_output"), dtype)
        made = ir.Node("", op, list(inputs), list(attributes), outputs=[output], name=self.fresh(op.lower()))
        producer = inputs[0].producer()
        if producer is not None and producer.graph is self.body:
            self.body.insert_after(producer, [made])
        else:
            self.body.insert_before(node, [made])
        return output

    def constant(self, array: np.ndarray) -> ir.Value:
        """A new constant."""
        return add_constant(self.root, self.fresh, "constant", array)


#: Lowers the clone of a point's node inside a branch; gives the branch's result.
Lowering: TypeAlias = "Callable[[Branch, QuantPoint, ir.Node], ir.Value]"


def add_branches(model: ir.Model, points: Sequence[QuantPoint], lower: Lowering) -> dict[str, str]:
    """Make an If of every node of ``points``, with a condition that is false: not lowered; in place.

    Args:
        points: of this model; types must be inferred.

    Returns:
        Result of a point -> name of its condition, a boolean scalar constant.
    """
    fresh = FreshNames(model)
    names: dict[str, str] = {}
    for number, (point, node) in enumerate(bound(model, points)):
        flag = add_constant(model.graph, fresh, f"condition_{number}", np.array(False))
        names[point.result] = str(flag.name)
        _branch(model.graph, point, node, flag, lower, fresh)
    return names


def resolve(model: onnx.ModelProto, conditions: Collection[str], true: Collection[str]) -> onnx.ModelProto:
    """A copy in which only the branches that are chosen are left, and the constants they read.

    Args:
        conditions: names of all conditions; ``true``: of those whose nodes are lowered.
    """
    import onnx

    chosen = onnx.ModelProto()
    chosen.CopyFrom(model)
    _splice(chosen.graph, frozenset(conditions), frozenset(true))
    used = {value.name for value in chosen.graph.output}.union(*map(reads, chosen.graph.node))
    _keep_named(chosen.graph.initializer, used)
    return chosen


def _keep_named(entries: Any, names: Collection[str]) -> None:
    """Drop from a list of a protobuf all entries but those of these names."""
    for index in reversed(range(len(entries))):
        if entries[index].name not in names:
            del entries[index]


def _splice(graph: onnx.GraphProto, conditions: frozenset[str], true: frozenset[str]) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        bodies = {attribute.name: attribute.g for attribute in node.attribute if attribute.HasField("g")}
        if node.op_type != "If" or node.input[0] not in conditions:
            for body in bodies.values():
                _splice(body, conditions, true)
            nodes.append(node)
            continue
        branch = bodies["then_branch" if node.input[0] in true else "else_branch"]
        for inner in branch.node:
            inner.output[:] = [node.output[0] if name == branch.output[0].name else name for name in inner.output]
            nodes.append(inner)
    spliced = type(graph)(node=nodes)  # a copy: clearing the old list ends the nodes in it
    del graph.node[:]
    graph.node.extend(spliced.node)


def rounded_to(form: Format) -> Lowering:
    """Lowers to a 16-bit format as a CPU can show it: activations, weight and result rounded, the sums in float32."""

    def lower(branch: Branch, point: QuantPoint, node: ir.Node) -> ir.Value:
        for index in point.activations:
            value = node.inputs[index]
            assert value is not None
            node.replace_input_with(index, _rounded(branch, node, value, form))
        if (kernel := _kernel(point, node)) is not None and point.weight is not None:
            node.replace_input_with(point.weight, branch.constant(kernel.astype(form.dtype).astype(np.float32)))
        return _rounded(branch, node, node.outputs[0], form)

    return lower


def _kernel(point: QuantPoint, node: ir.Node) -> np.ndarray | None:
    """The values of a point's weight; ``None`` if it has none."""
    value = None if point.weight is None else node.inputs[point.weight]
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _rounded(branch: Branch, node: ir.Node, value: ir.Value, form: Format) -> ir.Value:
    for dtype in (ir.DataType[form.onnx], ir.DataType.FLOAT):
        value = branch.insert(node, "Cast", [value], dtype, ir.AttrInt64("to", int(dtype)))
    return value


def scale_inputs(model: ir.Model, plan: QuantizationPlan) -> dict[str, ir.Value]:
    """Give ``model`` a float32 scalar input for every scale, in place.

    Returns:
        Quantized tensor -> the input that takes its scale; tensors that share a scale have one.
    """
    leaders = {name: group[0] for group in plan.groups for name in group}
    fresh = FreshNames(model)
    made: dict[str, ir.Value] = {}
    for name in plan.tensors:
        leader = leaders.get(name, name)
        if leader not in made:
            made[leader] = ir.val(fresh(f"{leader}__scale"), ir.DataType.FLOAT, [])
            model.graph.inputs.append(made[leader])
    return {name: made[leaders.get(name, name)] for name in plan.tensors}


def quantized(plan: QuantizationPlan, scales: Mapping[str, ir.Value], shifts: Mapping[str, np.ndarray]) -> Lowering:
    """Lowers as ``InsertQDQ`` does.

    Args:
        scales: from ``scale_inputs``.
        shifts: result of a weighted node -> what is added to its bias when it is lowered.
    """
    form = plan.format

    def lower(branch: Branch, point: QuantPoint, node: ir.Node) -> ir.Value:
        for index, name in zip(point.activations, point.inputs, strict=True):
            data = node.inputs[index]
            assert data is not None
            pair = [scales[name], branch.constant(np.zeros((), form.dtype))]
            quantized = branch.insert(node, "QuantizeLinear", [data, *pair], ir.DataType[form.onnx])
            node.replace_input_with(
                index, branch.insert(node, "DequantizeLinear", [quantized, *pair], ir.DataType.FLOAT)
            )
        kernel = _kernel(point, node)
        if kernel is None or point.weight is None:
            return node.outputs[0]
        weight, steps = quantized_kernel(plan, point, kernel)
        inputs = [branch.constant(array) for array in (weight, steps, np.zeros(steps.shape, weight.dtype))]
        axis = [ir.AttrInt64("axis", point.axis)] if form.granularity == "channel" else []
        whole = branch.insert(node, "DequantizeLinear", inputs, ir.DataType.FLOAT, *axis)
        node.replace_input_with(point.weight, whole)
        shift = shifts.get(point.result)
        if shift is None:
            return node.outputs[0]
        spread = shift.reshape(-1, *(1,) * (kernel.ndim - 2)) if node.op_type.startswith("Conv") else shift
        return branch.insert(node, "Add", [node.outputs[0], branch.constant(spread)], ir.DataType.FLOAT)

    return lower


def lowering_of(model: ir.Model, plan: QuantizationPlan, half: Format | None) -> tuple[Lowering, dict[str, str]]:
    """How points are lowered, and the inputs that take scales."""
    if half is not None:
        return rounded_to(half), {}
    known = correctable(model, plan)
    shifts = {name: unpacked(text) for name, text in plan.corrections.biases.items() if name in known}
    inputs = scale_inputs(model, plan)
    return quantized(plan, inputs, shifts), {tensor: str(value.name) for tensor, value in inputs.items()}


def _branch(
    root: ir.Graph, point: QuantPoint, node: ir.Node, condition: ir.Value, lower: Lowering, fresh: FreshNames
) -> None:
    """Replace a node by an If of itself, lowered and not."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    branches = []
    for name in ("then_branch", "else_branch"):
        clone = _clone(node, fresh)
        body = ir.Graph([], [], nodes=[clone], name=fresh(f"{name}_of_{node_label(node)}"))
        lowered = name == "then_branch"
        body.outputs.append(lower(Branch(body, root, fresh), point, clone) if lowered else clone.outputs[0])
        branches.append(ir.AttrGraph(name, body))
    choice = ir.Node("", "If", [condition], branches, num_outputs=1, name=fresh(f"if_{node_label(node)}"))
    graph.insert_before(node, [choice])
    old, new = node.outputs[0], choice.outputs[0]
    new.type, new.shape = old.type, old.shape
    name, old.name = str(old.name), fresh(f"{old.name}_unused")
    new.name = name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _clone(node: ir.Node, fresh: FreshNames) -> ir.Node:
    clone = ir.Node(
        node.domain, node.op_type, list(node.inputs), list(node.attributes.values()), num_outputs=len(node.outputs),
        name=fresh(node_label(node)),
    )  # fmt: skip
    for old, new in zip(node.outputs, clone.outputs, strict=True):
        new.name, new.type, new.shape = fresh(str(old.name)), old.type, old.shape
    return clone


@dataclass(frozen=True)
class Partition:
    """A place in the order of nodes at which the graph is partitioned.

    Attributes:
        position: of the last node before it, among the nodes of the main graph.
        values: float values made before and read behind it.
    """

    position: int
    values: tuple[str, ...]


def find_partitions(model: ir.Model, works: Mapping[ir.Node, int]) -> tuple[Partition, ...]:
    """Up to three partitions, in order, that few values cross, with about a quarter of the work between them.

    Args:
        works: multiply-accumulates of nodes, also of those in bodies.
    """
    nodes = list(model.graph)
    costs = [works.get(node, 0) + sum(works.get(inner, 0) for inner in nodes_inside(node)) for node in nodes]
    last = _last_reads(model, nodes)
    total, done = sum(costs), 0
    wanted = list(_SHARES)
    found: list[Partition] = []
    live: dict[ir.Value, int] = {}
    for position, (node, cost) in enumerate(zip(nodes, costs, strict=True)):
        done += cost
        live |= {value: last[value] for value in node.outputs if value in last}
        live = {value: until for value, until in live.items() if until > position}
        floats = tuple(str(value.name) for value in live if value.dtype == ir.DataType.FLOAT)
        if wanted and total and done >= wanted[0] * total and 0 < len(floats) <= _MOST_VALUES and done < total:
            found.append(Partition(position, floats))
            wanted = [share for share in wanted if share * total > done]
    return tuple(found)


def behind(model: onnx.ModelProto, partition: Partition) -> onnx.ModelProto:
    """A copy that begins at the partition: its values are inputs, and what they alone needed is gone."""
    import onnx

    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    graph, given = rest.graph, frozenset(partition.values)
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if any(name in needed and name not in given for name in node.output):
            node.output[:] = [f"{name}__again" if name in given else name for name in node.output]
            kept.append(node)
            needed.update(reads(node))
    copies = onnx.GraphProto(node=reversed(kept))
    del graph.node[:]
    graph.node.extend(copies.node)
    known = {value.name for value in graph.input}
    for name in partition.values:
        if name in needed and name not in known:
            graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    _keep_named(graph.input, needed)
    _keep_named(graph.initializer, needed)
    return rest


def reads(node: onnx.NodeProto) -> set[str]:
    """Names of all values that a node reads, also in its bodies."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names |= {value.name for value in attribute.g.output}
            for inner in attribute.g.node:
                names |= reads(inner)
    return names


def nodes_inside(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes in a node's bodies, at any depth."""
    for body in bodies_of(node):
        yield from body.all_nodes()


def _last_reads(model: ir.Model, nodes: list[ir.Node]) -> dict[ir.Value, int]:
    """Value -> position of the last node of the main graph that reads it, in a body too; outputs are read last."""
    found: dict[ir.Value, int] = {}
    for position, node in enumerate(nodes):
        for each in (node, *nodes_inside(node)):
            found |= {value: position for value in each.inputs if value is not None}
        for body in bodies_of(node):
            found |= dict.fromkeys(body.outputs, position)
    return found | dict.fromkeys(model.graph.outputs, len(nodes))
