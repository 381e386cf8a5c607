"""Does a model contradict itself about element types? Only what ONNX's schemas leave no doubt of counts."""

from __future__ import annotations

from collections import ChainMap
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.preflight.model import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import onnx

    from trtpipe.preflight.model import Graph, Node, Value

#: Name of a value -> its element type; only where it is known.
_Kinds: TypeAlias = ChainMap[str, int]
_CORRECT = "state the type that the node makes, or no type"


class ElementTypes:
    """Follows element types through a graph, as far as schemas bind outputs to inputs.

    Args:
        schema: of a node, or ``None`` where it has none.
    """

    def __init__(self, schema: Callable[[Node], onnx.defs.OpSchema | None]) -> None:
        self._schema = schema

    def check(self, graph: Graph, outer: _Kinds | None = None) -> None:
        """Check a graph, whose nodes are in order, and the bodies in it.

        Raises:
            Refused: a value is stated to be of two types, or of another than its node makes.
        """
        kinds: _Kinds = ChainMap() if outer is None else outer.new_child()
        declared = _stated((*graph.declared, *graph.outputs))
        for name, kind in _stated((*graph.inputs, *graph.constants)).items():
            kinds[name] = declared.setdefault(name, kind)
            if kinds[name] != kind:
                raise _contradiction(name, kinds[name], kind)
        for node in graph.nodes:
            for body in node.bodies:
                self.check(body, kinds)
            for name, kind in self._made(node, kinds):
                stated = declared.get(name, kind)
                if kind and stated != kind:
                    raise Refused(
                        f"{node.label}: its output {name!r} is of type {_word(kind)}, and stated to be {_word(stated)}",
                        _CORRECT,
                    )
                if stated:
                    kinds[name] = stated

    def _made(self, node: Node, kinds: _Kinds) -> Iterable[tuple[str, int]]:
        """The outputs of a node, and their types; 0 for an unknown one."""
        schema = self._schema(node)
        if schema is None:
            return [(name, 0) for name in node.outputs if name]
        bound: dict[str, int] = {}
        for formal, name in zip(_repeated(schema.inputs, len(node.inputs)), node.inputs, strict=False):
            if name in kinds and formal.is_homogeneous:
                bound.setdefault(formal.type_str, kinds[name])
        formals = _repeated(schema.outputs, len(node.outputs))
        return [
            (name, (bound.get(formal.type_str) or _number(formal.type_str)) if formal.is_homogeneous else 0)
            for formal, name in zip(formals, node.outputs, strict=False)
            if name
        ]


def _repeated(
    formals: Iterable[onnx.defs.OpSchema.FormalParameter], count: int
) -> list[onnx.defs.OpSchema.FormalParameter]:
    """One formal parameter for each actual one; the last one stands for all that follow."""
    found = list(formals)
    return found + found[-1:] * (count - len(found))


def _stated(values: Iterable[Value]) -> dict[str, int]:
    """The types that are stated, by name.

    Raises:
        Refused: two for one value.
    """
    found: dict[str, int] = {}
    for value in values:
        if value.kind and found.setdefault(value.name, value.kind) != value.kind:
            raise _contradiction(value.name, found[value.name], value.kind)
    return found


def _contradiction(name: str, one: int, other: int) -> Refused:
    return Refused(f"{name!r} is stated to be of two types, {_word(one)} and {_word(other)}", "state its type once")


def _number(text: str) -> int:
    """The number of a type that a schema names outright; 0 for a type variable."""
    import onnx

    name = text.removeprefix("tensor(").removesuffix(")").upper()
    numbers: dict[str, int] = dict(onnx.TensorProto.DataType.items())
    return numbers.get(name, 0) if text.startswith("tensor(") else 0


def _word(kind: int) -> str:
    import onnx

    known = kind in onnx.TensorProto.DataType.values()
    return str(onnx.TensorProto.DataType.Name(kind)).lower() if known else str(kind)
