"""One name for each node and each value of a model, across the bodies of If, Loop and Scan.

ONNX lets two branches use the same name, and onnx-ir's NameFixPass keeps that. Statistics, ranges and decisions go by
name, so one branch would get the range of the other; and a branch that replaces its If brings its names along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx_ir as ir


class UniqueNames(GraphPass):
    """Rename what has the name of something in an outer or an earlier body; every node and value has a name already.

    Values that nothing reads and constants other than floats, such as axes, keep their names: nothing looks them up.
    """

    name = "unique_names"

    def call(self, model: ir.Model) -> PassResult:
        """Rename, outer graphs first."""
        values = [value for graph in graphs_of(model) for value in _values(graph)]
        nodes = [node for graph in graphs_of(model) for node in graph]
        renamed = [_rename(values, FreshNames(model)), _rename(nodes, FreshNames(model, of_nodes=True))]
        return PassResult(self.name, modified=any(renamed))


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Those of one graph whose names count."""
    yield from graph.inputs
    constants = [value for value in graph.initializers.values() if not value.is_graph_input()]
    yield from (value for value in constants if value.dtype is not None and value.dtype.is_floating_point())
    for node in graph:
        yield from (value for value in node.outputs if value.uses() or value.is_graph_output())


def _rename(named: Sequence[ir.Value | ir.Node], fresh: FreshNames) -> bool:
    """Give a fresh name to all that have the name of one before; whether there are any."""
    seen: set[str | None] = set()
    renamed = False
    for each in named:
        if each.name in seen:
            each.name = fresh(str(each.name))
            renamed = True
        seen.add(each.name)
    return renamed
