"""Graphs with TensorRT plug-in nodes: what comes before these can run anywhere, they and what follows cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.passes.graph_pass import FreshNames, bodies_of, node_label, result_of
from trtpipe.passes.operators import is_plugin

if TYPE_CHECKING:
    from collections.abc import Iterator


def plugin_nodes(model: ir.Model) -> tuple[ir.Node, ...]:
    """The nodes, at any depth, that only a plug-in can run."""
    local = {(function.domain, function.name) for function in model.functions.values()}
    nodes = (node for node in model.graph.all_nodes() if (node.domain, node.op_type) not in local)
    return tuple(node for node in nodes if is_plugin(node))


def cut_plugins(model: ir.Model) -> tuple[str, ...]:
    """Leave out, in place, every plug-in node and what depends on it; what the first plug-ins would read becomes an
    output, ``RESULT/input_N``, after the first result of the plug-in, or of the If or loop that it is in. These names
    are the same in every form of a graph; so constants are outputs, too: another form may compute them.

    Returns:
        The plug-in nodes with their operators, in words; nothing where the graph has none, and stays as it is, or where
        nothing of it would be left.
    """
    words = tuple(f"{node_label(node)} ({node.op_type})" for node in plugin_nodes(model))
    if not words:
        return ()
    ir.passes.common.RemoveUnusedNodesPass()(model)  # what nothing reads is in no other form
    plugins = plugin_nodes(model)
    if not plugins:
        return words
    graph, fresh = model.graph, FreshNames(model)
    heads = [node for node in graph if any(inner in plugins for inner in _within(node))]
    lost: set[ir.Node] = set(heads)
    for node in graph:
        if any(value.producer() in lost for value in _reads(node)):
            lost.add(node)
    kept = [value for value in graph.outputs if value.producer() not in lost]
    seams: list[ir.Value] = []
    for node in heads:
        for index, value in enumerate(_reads(node)):
            maker = value.producer()
            if value.graph is not graph or value.is_graph_input() or maker in lost:
                continue
            seam = ir.val(fresh(f"{result_of(node)}/input_{index}"), value.dtype, value.shape)
            copy = ir.node("Identity", [value], outputs=[seam], name=seam.name)
            if maker is None:
                graph.insert_before(node, [copy])
            else:
                graph.insert_after(maker, [copy])
            seams.append(seam)
    if not kept and not seams:
        return ()
    graph.outputs.clear()
    graph.outputs.extend([*kept, *seams])
    graph.remove([node for node in graph if node in lost], safe=True)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    return words


def _within(node: ir.Node) -> Iterator[ir.Node]:
    yield node
    for body in bodies_of(node):
        yield from body.all_nodes()


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    for inner in _within(node):
        yield from (value for value in inner.inputs if value is not None)
