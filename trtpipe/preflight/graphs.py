"""Does every value have one maker that comes before its users? Names are looked up as ONNX scopes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.preflight.budgets import Refused

if TYPE_CHECKING:
    from trtpipe.preflight.model import Graph, Node

_CORRECT = "correct the node named above"


class Scopes:
    """The values that can be seen from where the check stands: name -> how many graphs around it define it."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def check(self, graph: Graph, what: str = "the graph") -> None:
        """Check a graph and the bodies in it.

        Raises:
            Refused: a value is made twice, or not before it is used, or an output is not made at all.
        """
        own: set[str] = set()
        listed = [value.name for value in graph.inputs]
        if twice := _twice(listed) or _twice(graph.constants):
            raise Refused(f"{what} declares {twice!r} twice")
        for name in (*listed, *graph.constants):
            self._add(name, own)
        later = {name for node in graph.nodes for name in node.outputs}
        for node in graph.nodes:
            self._check_node(node, own, later)
        outputs = [value.name for value in graph.outputs]
        if twice := _twice(outputs):
            raise Refused(f"{what} lists its output {twice!r} twice")
        for name in outputs:
            if name not in self._seen:
                raise Refused(f"{what} has an output {name!r} that nothing makes")
        for name in own:
            self._seen[name] -= 1
            if not self._seen[name]:
                del self._seen[name]

    def _check_node(self, node: Node, own: set[str], later: set[str]) -> None:
        if not any(node.outputs):
            raise Refused(f"{node.label} has no outputs", "remove it")
        for name in node.inputs:
            if name and name not in self._seen:
                if name in later:
                    why = "is made only after it: the nodes are in a circle, or out of order"
                else:
                    why = "is made by no node"
                raise Refused(f"{node.label}: its input {name!r} {why}", _CORRECT)
        for body in node.bodies:
            self.check(body, f"a body of {node.label}")
        for name in filter(None, node.outputs):
            if name in own:
                raise Refused(f"{node.label}: {name!r} is made twice", _CORRECT)
            self._add(name, own)

    def _add(self, name: str, own: set[str]) -> None:
        if name not in own:
            own.add(name)
            self._seen[name] = self._seen.get(name, 0) + 1


def _twice(names: list[str]) -> str | None:
    """A name that is there more than once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
