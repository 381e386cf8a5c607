"""What a model becomes when its functions are written out: libraries do that first, however large it gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtpipe.preflight.budgets import Budgets, Refused, TooLarge

if TYPE_CHECKING:
    from trtpipe.preflight.model import Function, Graph, Model, Node

_WRITE_OUT = "write the functions out, or export the model without them"


@dataclass(frozen=True)
class _Size:
    """Nodes of a function when written out, and how deep its calls go."""

    nodes: int
    depth: int


def check_functions(model: Model, budgets: Budgets) -> int:
    """The number of nodes with every call written out.

    Raises:
        Refused: a function calls itself, two have one name, or the whole is beyond a budget.
    """
    functions: dict[tuple[str, str, str], Function] = {}
    for function in model.functions:
        if function.key in functions:
            raise Refused(f"function {function.name!r} is defined twice", _WRITE_OUT)
        functions[function.key] = function
    sizes: dict[tuple[str, str, str], _Size] = {}
    for function in model.functions:
        _measure(function, functions, sizes, budgets, ())
    total = _size_of(model.graph, functions, sizes).nodes if model.graph else 0
    if total > budgets.nodes:
        raise TooLarge(f"written out it has {total:.3g} nodes; {budgets.nodes} is the limit", _WRITE_OUT)
    return total


def _measure(
    function: Function,
    functions: dict[tuple[str, str, str], Function],
    sizes: dict[tuple[str, str, str], _Size],
    budgets: Budgets,
    callers: tuple[tuple[str, str, str], ...],
) -> None:
    """Put a function's size into ``sizes``, those it calls first."""
    if function.key in sizes:
        return
    if function.key in callers:
        raise Refused(f"function {function.name!r} calls itself", _WRITE_OUT)
    if len(callers) >= budgets.depth:
        raise TooLarge(f"functions call each other more than {budgets.depth} deep", _WRITE_OUT)
    for node in _all_nodes(function.graph):
        called = functions.get((node.domain, node.op_type, node.overload))
        if called is not None:
            _measure(called, functions, sizes, budgets, (*callers, function.key))
    sizes[function.key] = size = _size_of(function.graph, functions, sizes)
    if size.depth > budgets.depth:
        raise TooLarge(f"functions call each other more than {budgets.depth} deep", _WRITE_OUT)


def _size_of(
    graph: Graph,
    functions: dict[tuple[str, str, str], Function],
    sizes: dict[tuple[str, str, str], _Size],
) -> _Size:
    nodes, depth = 0, 0
    for node in _all_nodes(graph):
        called = sizes.get((node.domain, node.op_type, node.overload))
        nodes += 1 if called is None else called.nodes
        depth = max(depth, 0 if called is None else called.depth)
    return _Size(nodes, depth + 1)


def _all_nodes(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes:
        yield node
        for body in node.bodies:
            yield from _all_nodes(body)
