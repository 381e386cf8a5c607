"""Measure the channels of values inside the graph: a few numbers a channel leave it, whatever the value's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import add_constant
from trtpipe.passes.expose import expose_too
from trtpipe.passes.graph_pass import FreshNames, result_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trtpipe.artifact import Feed
    from trtpipe.quantization.smooth_quant import SmoothGroup


@dataclass(frozen=True)
class Channels:
    """Where the channels of a value lie.

    Attributes:
        count: how many there are.
        rank: of a map [samples, channels, ...]; 0 for rows, whose last axis has the channels.
    """

    count: int
    rank: int = 0


def add_measure(
    value: ir.Value, channels: Channels, operators: Sequence[str], fresh: FreshNames, anchor: ir.Node
) -> list[ir.Node]:
    """Insert behind ``anchor`` what reduces ``value`` over all axes but samples and channels.

    It needs nothing newer than opset 5. Rows become a map of one sample first.

    Args:
        operators: the last of them reduces a map, such as GlobalAveragePool.

    Returns:
        The nodes; the last one gives float32[samples or 1, channels, 1...].
    """
    graph = anchor.graph
    assert isinstance(graph, ir.Graph)
    steps: list[ir.Node] = []
    if not channels.rank:
        rows = add_constant(graph, fresh, "rows", np.array([-1, channels.count], np.int64))
        steps.append(ir.node("Reshape", [value, rows]))
        steps.append(ir.node("Transpose", [steps[-1].outputs[0]], {"perm": [1, 0]}))
        single = add_constant(graph, fresh, "map", np.array([1, channels.count, -1], np.int64))
        steps.append(ir.node("Reshape", [steps[-1].outputs[0], single]))
    for operator in operators:
        steps.append(ir.node(operator, [steps[-1].outputs[0] if steps else value]))
    name_outputs(steps, value, fresh)
    steps[-1].outputs[0].shape = ir.Shape([None, channels.count, *(1,) * ((channels.rank or 3) - 2)])
    graph.insert_after(anchor, steps)
    return steps


def name_outputs(nodes: Sequence[ir.Node], value: ir.Value, fresh: FreshNames) -> None:
    """Call the float32 results of new nodes after the value that they are made from."""
    for node in nodes:
        node.outputs[0].name, node.outputs[0].dtype = fresh(f"{value.name}__{node.op_type}"), ir.DataType.FLOAT


def measure_maxima(model: ir.Model, values: Mapping[str, Channels]) -> dict[str, str]:
    """Make ``model`` also give the largest magnitude of every channel of values that nodes make, in place.

    Returns:
        Value -> name of the graph output float32[samples or 1, channels, 1...] with its maxima.
    """
    fresh, found = FreshNames(model), dict[str, str]()
    for node in list(model.graph.all_nodes()):
        for value in node.outputs:
            if value.name is not None and value.name in values:
                steps = add_measure(value, values[value.name], ("Abs", "GlobalMaxPool"), fresh, node)
                found[value.name] = result_of(steps[-1])
    expose_too(model, list(found.values()))
    return found


class Maxima:
    """The largest magnitude of every channel of some activations, and of what lies between each and its fold.

    Attributes:
        seen: activation -> float32[channels].
        between: the same, the largest of all values between it and its fold; 0 where these are not measured.
    """

    def __init__(self, groups: Iterable[SmoothGroup]) -> None:
        self._groups = tuple(groups)
        self.seen, self.between = (
            {group.name: np.zeros(group.channels, np.float32) for group in self._groups} for _ in range(2)
        )

    def wanted(self, *, between: bool) -> dict[str, Channels]:
        """What is to be measured: see ``measure_maxima``.

        Args:
            between: whether also what lies before the activations.
        """
        found: dict[str, Channels] = {}
        for group in self._groups:
            channels = Channels(group.channels, group.readers[0].array.ndim if group.axis == 1 else 0)
            names = [group.name, *(_between(group) if between else ())]
            found |= dict.fromkeys(names, channels)
        return found

    def update(self, found: Feed, names: Mapping[str, str]) -> None:
        """Take in one run.

        Args:
            names: from ``measure_maxima``.
        """
        for group in self._groups:
            _raise(self.seen[group.name], found[names[group.name]])
            for name in _between(group):
                if name in names:
                    _raise(self.between[group.name], found[names[name]])


def _between(group: SmoothGroup) -> list[str]:
    return [] if group.fold is None else [str(value.name) for value in group.fold.between]


def _raise(maxima: np.ndarray, found: np.ndarray) -> None:
    """Raise the maxima of channels to those found; a value without elements has none."""
    for row in found.reshape(-1, maxima.size):
        np.fmax(maxima, row, out=maxima)
