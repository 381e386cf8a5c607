"""The shape of a pass, and the one loop that runs passes and checks the I/O contract after each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.errors import StageError
from trtpipe.preflight.onnx_io import contract_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from trtpipe.passes.decisions import NodeDecision


@dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Attributes:
        name: the pass.
        modified: whether the graph changed.
        decisions: one for every node the pass decided on.
    """

    name: str
    modified: bool
    decisions: tuple[NodeDecision, ...] = ()


class GraphPass(ABC):
    """One rewriting of the graph, in place.

    A pass keeps nothing of a model it has rewritten: passes stand in module-level tuples and run from several threads.

    Attributes:
        name: for reports and errors.
        one_protobuf: whether it needs the whole model as one protobuf, which cannot exceed 2 GB.
    """

    name: str
    one_protobuf: bool = False

    def requires(self, model: ir.Model) -> None:  # noqa: B027  optional hook
        """Raise StageError when the pass cannot be applied to this model."""

    @abstractmethod
    def call(self, model: ir.Model) -> PassResult:
        """Rewrite ``model`` in place."""

    def ensures(self, model: ir.Model) -> None:  # noqa: B027  optional hook
        """Raise StageError when the rewriting left the model in a wrong state."""


class Borrowed(GraphPass):
    """A pass of onnx-ir's own, run under our contract check.

    Args:
        make: makes the pass; called for each model, because some of onnx-ir's passes keep parts of the last one.
    """

    def __init__(self, name: str, make: Callable[[], ir.passes.PassBase], *, one_protobuf: bool = False) -> None:
        self.name = name
        self.one_protobuf = one_protobuf
        self._make = make

    def call(self, model: ir.Model) -> PassResult:
        """Run the borrowed pass; it must work in place."""
        result = self._make()(model)
        if result.model is not model:
            raise StageError(f"pass {self.name} returned another model", "report this as a bug")
        return PassResult(self.name, modified=result.modified)


def run_passes(model: ir.Model, passes: Iterable[GraphPass]) -> list[PassResult]:
    """Run ``passes`` in order; after each one the model's I/O contract must be what it was.

    Raises:
        StageError: a pass broke the contract, or refused; the message names the pass.
    """
    results = []
    for graph_pass in passes:
        before = contract_of(model)
        graph_pass.requires(model)
        results.append(graph_pass.call(model))
        graph_pass.ensures(model)
        if broken := before.difference(contract_of(model)):
            raise StageError(
                f"pass {graph_pass.name} changed the model's interface: {broken}",
                "report this with the model; --no-simplify may avoid it",
            )
    return results


def node_label(node: ir.Node) -> str:
    """How a report names a node."""
    return node.name or next((value.name for value in node.outputs if value.name), "") or f"unnamed {node.op_type}"


def reached(start: ir.Value, step: Callable[[ir.Value], Iterable[ir.Value]]) -> list[ir.Value]:
    """``start``, and what can be reached from it by any number of steps, nearest first."""
    found, seen = [start], {start}
    for current in found:
        new = [value for value in dict.fromkeys(step(current)) if value not in seen]
        found += new
        seen.update(new)
    return found


def result_of(node: ir.Node) -> str:
    """The name of a node's first output; empty where it has none."""
    return str(node.outputs[0].name) if node.outputs else ""


class FreshNames:
    """Names that no value of ``model``, or no node, has yet; each is given out once."""

    def __init__(self, model: ir.Model, *, of_nodes: bool = False) -> None:
        named = iter if of_nodes else _values
        self._taken = {each.name for graph in graphs_of(model) for each in named(graph)}

    def __call__(self, wanted: str) -> str:
        """``wanted``, or ``wanted_2``, ``wanted_3``, ... where it is taken."""
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def graphs_of(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph and every subgraph, outer ones first."""
    yield model.graph
    yield from model.graph.subgraphs()


def owners_of(model: ir.Model) -> dict[ir.Graph, ir.Node]:
    """Every body in the model -> the node (If, Loop, Scan) it belongs to; the main graph is not among them."""
    return {body: node for node in model.graph.all_nodes() for body in bodies_of(node)}


def enclosing(node: ir.Node, owners: Mapping[ir.Graph, ir.Node]) -> Iterator[ir.Node]:
    """The nodes in whose bodies ``node`` lies, from the inside out.

    Args:
        owners: from ``owners_of``.
    """
    graph = node.graph
    while isinstance(graph, ir.Graph) and graph in owners:
        yield owners[graph]
        graph = owners[graph].graph


def bodies_of(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs among a node's attributes, in their order."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
