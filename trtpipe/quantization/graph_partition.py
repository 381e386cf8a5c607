"""Where a graph can be cut, so that what comes behind is run from stored values again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.passes.graph_pass import bodies_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx

#: Shares of all work before a cut that are aimed at.
_SHARES = (0.25, 0.5, 0.75)
#: Values that cross a cut at most.
_MOST_VALUES = 4


@dataclass(frozen=True)
class Cut:
    """A place in the order of nodes.

    Attributes:
        position: of the last node before it, among the nodes of the main graph.
        values: float values made before and read behind it.
    """

    position: int
    values: tuple[str, ...]


def find_cuts(model: ir.Model, works: Mapping[ir.Node, int]) -> tuple[Cut, ...]:
    """Up to three cuts, in order, that few values cross, with about a quarter of the work between them.

    Args:
        works: multiply-accumulates of nodes, also of those in bodies.
    """
    nodes = list(model.graph)
    costs = [works.get(node, 0) + sum(works.get(inner, 0) for inner in nodes_inside(node)) for node in nodes]
    last = _last_reads(model, nodes)
    total, done = sum(costs), 0
    wanted = list(_SHARES)
    found: list[Cut] = []
    live: dict[ir.Value, int] = {}
    for position, (node, cost) in enumerate(zip(nodes, costs, strict=True)):
        done += cost
        live |= {value: last[value] for value in node.outputs if value in last}
        live = {value: until for value, until in live.items() if until > position}
        floats = tuple(str(value.name) for value in live if value.dtype == ir.DataType.FLOAT)
        if wanted and total and done >= wanted[0] * total and 0 < len(floats) <= _MOST_VALUES and done < total:
            found.append(Cut(position, floats))
            wanted = [share for share in wanted if share * total > done]
    return tuple(found)


def behind(model: onnx.ModelProto, cut: Cut) -> onnx.ModelProto:
    """A copy that begins at the cut: its values are inputs, and what they alone needed is gone."""
    import onnx

    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    graph, given = rest.graph, frozenset(cut.values)
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
    for name in cut.values:
        if name in needed and name not in known:
            graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    inputs = [value for value in graph.input if value.name in needed]
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.input[:], graph.initializer[:]
    graph.input.extend(inputs)
    graph.initializer.extend(constants)
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
