"""Replace every If on a constant by the branch it takes, before any tool sees the graph.

A file may hold thousands of them, and what infers shapes or runs the graph takes time that grows with their square.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator

_OWN = ("", "ai.onnx")


def take_constant_branches(model: onnx.ModelProto) -> Iterator[str]:
    """Put the nodes of the branch that is taken in the place of each If on a constant."""
    graph = model.graph
    inputs = {value.name for value in graph.input}
    known = {tensor.name: tensor for tensor in graph.initializer if _is_flag(tensor) and tensor.name not in inputs}
    names = {value.name for value in (*graph.input, *graph.initializer)}
    names.update(name for node in graph.node for name in node.output)
    splicing = _Splicing(known, names, graph)
    nodes = list(splicing.nodes(graph.node))
    if splicing.taken:
        written = onnx.GraphProto(node=nodes)  # a copy: what is cleared is gone
        del graph.node[:]
        graph.node.extend(written.node)
        yield f"of {splicing.taken} Ifs on a constant the branch that is taken was left"


def _is_flag(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.BOOL and not tensor.external_data and list(tensor.dims) in ([], [1])


class _Splicing:
    """What is known while the nodes of a graph are gone through.

    Args:
        known: constants that may be conditions; those of Constant nodes are added.
        names: of all values of the main graph.
        graph: the main graph, which takes the constants of branches.
    """

    def __init__(self, known: dict[str, onnx.TensorProto], names: set[str], graph: onnx.GraphProto) -> None:
        self.taken = 0
        self._known = known
        self._names = names
        self._graph = graph

    def nodes(self, nodes: Iterator[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
        """The nodes, with those of branches in the place of their If."""
        for node in nodes:
            if node.op_type == "Constant" and node.domain in _OWN:
                for attribute in node.attribute:
                    if attribute.name == "value" and _is_flag(attribute.t):
                        self._known[node.output[0]] = attribute.t
            flag = self._known.get(node.input[0]) if node.op_type == "If" and node.domain in _OWN else None
            if flag is None:
                yield node
                continue
            self.taken += 1
            chosen = "then_branch" if numpy_helper.to_array(flag).any() else "else_branch"
            yield from self.nodes(self._spliced(node, chosen))

    def _spliced(self, node: onnx.NodeProto, chosen: str) -> Iterator[onnx.NodeProto]:
        branch = next(attribute.g for attribute in node.attribute if attribute.name == chosen)
        results = [value.name for value in branch.output]
        made = {name for inner in branch.node for name in inner.output}
        renamed: dict[str, str] = {}
        for result, name in zip(results, node.output, strict=True):
            if result in made and results.count(result) == 1:
                renamed[result] = name  # the result itself takes the name that the If gave it
        for name in sorted((made | {tensor.name for tensor in branch.initializer}) - renamed.keys() - {""}):
            renamed[name] = self._fresh(name)
        for tensor in branch.initializer:
            added = self._graph.initializer.add()
            added.CopyFrom(tensor)
            added.name = renamed[tensor.name]
        for inner in branch.node:
            _rename(inner, renamed)
            yield inner
        for result, name in zip(results, node.output, strict=True):
            if renamed.get(result) != name and name:
                yield helper.make_node("Identity", [renamed.get(result, result)], [name], f"{name}_taken")

    def _fresh(self, name: str) -> str:
        found, count = name, 1
        while found in self._names:
            count += 1
            found = f"{name}_{count}"
        self._names.add(found)
        return found


def _rename(node: onnx.NodeProto, renamed: dict[str, str]) -> None:
    """Rename what a node reads and makes, in its bodies too: names in them are unlike those around them."""
    for names in (node.input, node.output):
        for index, name in enumerate(names):
            if name in renamed:
                names[index] = renamed[name]
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            for inner in body.node:
                _rename(inner, renamed)
            for value in body.output:
                value.name = renamed.get(value.name, value.name)
