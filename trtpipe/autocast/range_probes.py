"""Measure tensors inside the graph: a few numbers a tensor leave it, whatever the tensor's size.

What 16 bits can hold is a question of extremes alone, so nothing needs a histogram: reductions in the graph cost little
beside the operators they watch, and no tensor has to be copied out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import add_constant
from trtpipe.passes.graph_pass import FreshNames, graphs_of, owners_of
from trtpipe.passes.operators import PURE_MOVES, computed_floats, origin

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

Quantity = Literal["minimum", "maximum", "smallest", "terms"]

#: operator -> the input whose small magnitudes matter
_DIVISORS = {"Div": 1, "Sqrt": 0, "Log": 0, "Reciprocal": 0, "Pow": 0}
#: sums whose terms may cancel, so that a small result says nothing about what was added
SUMS = frozenset({"ReduceSum", "ReduceMean", "CumSum"})
_CONTAINERS = frozenset({"If", "Loop", "Scan"})
_NOTHING = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Probe:
    """One number about one tensor in one run.

    Attributes:
        tensor: its name.
        quantity: ``minimum`` and ``maximum`` of its values; ``smallest`` magnitude that is not 0; the largest sum of
            magnitudes (``terms``) that one of its elements was added up from.
    """

    tensor: str
    quantity: Quantity


def add_probes(model: ir.Model, only: Collection[ir.Value] | None = None) -> dict[str, tuple[Probe, ...]]:
    """Append to every graph of ``model``, in place, one value that holds the numbers of its float32 tensors.

    Tensors that only show another one's elements get none of their own: see ``operators.origin``.

    Args:
        only: measure just these, and just their extremes.

    Returns:
        Name of a float32[n] value -> what its elements are. Bodies of other operators than If, Loop and Scan have none.
    """
    fresh = FreshNames(model)
    owners = owners_of(model)
    found: dict[str, tuple[Probe, ...]] = {}
    for graph in list(graphs_of(model)):
        if graph in owners and owners[graph].op_type not in _CONTAINERS:
            continue
        prober = _Prober(graph, fresh)
        for value, quantity, make in list(
            _wanted(graph) if only is None else _extremes(value for value in only if value.graph is graph)
        ):
            prober.add(Probe(str(value.name), quantity), make)
        if prober.probes:
            found[prober.finish()] = tuple(prober.probes)
    return found


class _Prober:
    """Appends reductions to one graph and gathers their results."""

    def __init__(self, graph: ir.Graph, fresh: FreshNames) -> None:
        self.probes: list[Probe] = []
        self._graph = graph
        self._fresh = fresh
        self._parts: list[ir.Value] = []
        self._flat = self.constant(np.array([-1], np.int64))
        self.zero = self.constant(np.zeros((), np.float32))
        self.nothing = self.constant(np.array(_NOTHING, np.float32))

    def constant(self, array: np.ndarray) -> ir.Value:
        return add_constant(self._graph, self._fresh, "probe_constant", array)

    def op(self, op_type: str, inputs: list[ir.Value | None], attribute: tuple[str, int] | None = None) -> ir.Value:
        return self.append(ir.node(op_type, inputs, dict([attribute]) if attribute else None))

    def append(self, node: ir.Node) -> ir.Value:
        node.outputs[0].name = self._fresh("probe")
        self._graph.append(node)
        return node.outputs[0]

    def add(self, probe: Probe, make: Callable[[_Prober], ir.Value]) -> None:
        self._parts.append(self.op("Reshape", [make(self), self._flat]))
        self.probes.append(probe)

    def finish(self) -> str:
        """The name of the value with all numbers."""
        name = self._fresh("probes")
        self._graph.append(ir.node("Concat", self._parts, {"axis": 0}, outputs=[ir.val(name, ir.DataType.FLOAT)]))
        return name


def divisor_of(node: ir.Node) -> ir.Value | None:
    """The float32 tensor that ``node`` divides by, or takes a root, logarithm or power of; no constant."""
    index = _DIVISORS.get(node.op_type)
    return None if index is None else next(iter(computed_floats(node.inputs[index : index + 1])), None)


def _wanted(graph: ir.Graph) -> Iterator[tuple[ir.Value, Quantity, Callable[[_Prober], ir.Value]]]:
    values: dict[ir.Value, None] = dict.fromkeys(
        value for value in graph.inputs if value.dtype == ir.DataType.FLOAT and value.uses()
    )
    divisors: dict[ir.Value, None] = {}
    for node in graph:
        if node.op_type not in PURE_MOVES:
            values |= dict.fromkeys(value for value in node.outputs if value.dtype == ir.DataType.FLOAT and value.name)
        if (source := divisor_of(node)) is not None:
            divisors[origin(source)] = None
    yield from _extremes(values)
    for value in divisors:
        if value.graph is graph and value.const_value is None:
            yield value, "smallest", _smallest(value)
    for node in graph:
        if node.op_type in SUMS and node.outputs[0] in values:
            yield node.outputs[0], "terms", _terms(node)


def _extremes(values: Iterable[ir.Value]) -> Iterator[tuple[ir.Value, Quantity, Callable[[_Prober], ir.Value]]]:
    for value in values:
        yield value, "minimum", _reduction("ReduceMin", value)
        yield value, "maximum", _reduction("ReduceMax", value)


def _reduction(op_type: str, value: ir.Value) -> Callable[[_Prober], ir.Value]:
    return lambda prober: prober.op(op_type, [value], ("keepdims", 0))


def _smallest(value: ir.Value) -> Callable[[_Prober], ir.Value]:
    def make(prober: _Prober) -> ir.Value:
        magnitude = prober.op("Abs", [value])
        zero = prober.op("Equal", [magnitude, prober.zero])
        return prober.op("ReduceMin", [prober.op("Where", [zero, prober.nothing, magnitude])], ("keepdims", 0))

    return make


def _terms(node: ir.Node) -> Callable[[_Prober], ir.Value]:
    """The same sum over magnitudes; a mean is brought back to the sum it came from."""

    def make(prober: _Prober) -> ir.Value:
        source = node.inputs[0]
        assert source is not None
        magnitude = prober.op("Abs", [source])
        attributes: Mapping[str, ir.Attr] = node.attributes
        total = prober.append(ir.node(node.op_type, [magnitude, *node.inputs[1:]], dict(attributes)))
        if node.op_type == "ReduceMean":
            count = prober.op("Div", [prober.op("Size", [source]), prober.op("Size", [total])])
            total = prober.op("Mul", [total, prober.op("Cast", [count], ("to", int(ir.DataType.FLOAT)))])
        return prober.op("ReduceMax", [total], ("keepdims", 0))

    return make
