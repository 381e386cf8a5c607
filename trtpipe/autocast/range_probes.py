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
    from collections.abc import Collection, Iterable, Mapping, Sequence

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
        if only is None:
            prober.everything()
        else:
            prober.extremes(value for value in only if value.graph is graph)
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
        self._flat = add_constant(graph, fresh, "probe_constant", np.array([-1], np.int64))
        self._zero = add_constant(graph, fresh, "probe_constant", np.zeros((), np.float32))
        self._nothing = add_constant(graph, fresh, "probe_constant", np.array(_NOTHING, np.float32))

    def everything(self) -> None:
        """All that matters about the graph's float32 tensors."""
        nodes = list(self._graph)
        values: dict[ir.Value, None] = dict.fromkeys(
            value for value in self._graph.inputs if value.dtype == ir.DataType.FLOAT and value.uses()
        )
        for node in nodes:
            if node.op_type not in PURE_MOVES:
                values |= dict.fromkeys(each for each in node.outputs if each.dtype == ir.DataType.FLOAT and each.name)
        divisors = dict.fromkeys(origin(value) for node in nodes if (value := divisor_of(node)) is not None)
        self.extremes(values)
        for value in divisors:
            if value.graph is self._graph and value.const_value is None:
                self._smallest(value)
        for node in nodes:
            if node.op_type in SUMS and node.outputs[0] in values:
                self._terms(node)

    def extremes(self, values: Iterable[ir.Value]) -> None:
        """The least and the largest number of each."""
        for value in values:
            self._add(value, "minimum", self._op("ReduceMin", [value], {"keepdims": 0}))
            self._add(value, "maximum", self._op("ReduceMax", [value], {"keepdims": 0}))

    def finish(self) -> str:
        """The name of the value with all numbers."""
        name = self._fresh("probes")
        self._graph.append(ir.node("Concat", self._parts, {"axis": 0}, outputs=[ir.val(name, ir.DataType.FLOAT)]))
        return name

    def _smallest(self, value: ir.Value) -> None:
        magnitude = self._op("Abs", [value])
        zero = self._op("Equal", [magnitude, self._zero])
        others = self._op("Where", [zero, self._nothing, magnitude])
        self._add(value, "smallest", self._op("ReduceMin", [others], {"keepdims": 0}))

    def _terms(self, node: ir.Node) -> None:
        """The same sum over magnitudes; a mean is brought back to the sum it came from."""
        source = node.inputs[0]
        total = self._op(node.op_type, [self._op("Abs", [source]), *node.inputs[1:]], node.attributes)
        if node.op_type == "ReduceMean":
            count = self._op("Div", [self._op("Size", [source]), self._op("Size", [total])])
            total = self._op("Mul", [total, self._op("Cast", [count], {"to": int(ir.DataType.FLOAT)})])
        self._add(node.outputs[0], "terms", self._op("ReduceMax", [total], {"keepdims": 0}))

    def _op(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, int | ir.Attr] | None = None
    ) -> ir.Value:
        output = ir.val(self._fresh("probe"))
        self._graph.append(ir.node(op_type, inputs, attributes, outputs=[output]))
        return output

    def _add(self, value: ir.Value, quantity: Quantity, number: ir.Value) -> None:
        self._parts.append(self._op("Reshape", [number, self._flat]))
        self.probes.append(Probe(str(value.name), quantity))


def divisor_of(node: ir.Node) -> ir.Value | None:
    """The float32 tensor that ``node`` divides by, or takes a root, logarithm or power of; no constant."""
    index = _DIVISORS.get(node.op_type)
    return None if index is None else next(iter(computed_floats(node.inputs[index : index + 1])), None)
