"""Writing a few operators in the place of one."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import add_constant
from trtpipe.passes.graph_pass import node_label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.passes.graph_pass import FreshNames

#: Since these opsets axes are an input of ReduceSum, Squeeze and Unsqueeze; and of all other reductions.
_AXES_GIVEN, _AXES_GIVEN_EVERYWHERE = 13, 18


class Writer:
    """Writes standard operators before a node, and lets them take its place.

    Args:
        node: the node; it stays until ``replace``.
        opset: of ONNX's own operators, which decides how they take their axes.
    """

    def __init__(self, node: ir.Node, opset: int, fresh: FreshNames) -> None:
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        self.node = node
        self.opset = opset
        self._graph = graph
        self._fresh = fresh
        self._label = node_label(node)

    def op(
        self,
        op: str,
        *inputs: ir.Value | None,
        dtype: ir.DataType | None = None,
        having: Mapping[str, float | int | str | Sequence[int]] = MappingProxyType({}),
    ) -> ir.Value:
        """The result of a new node.

        Args:
            dtype: of the result, if it is not that of the first input.
            having: its attributes.
        """
        made = ir.node(op, inputs, having, name=self._fresh(f"{self._label}_{op}"))
        result = made.outputs[0]
        first = inputs[0] if inputs else None
        result.name = self._fresh(f"{self._label}_{op}_output")
        kind = dtype or (None if first is None else first.dtype)
        if kind is not None:
            result.dtype = kind
        self._graph.insert_before(self.node, [made])
        return result

    def constant(self, content: object, like: ir.Value | None = None, dtype: type | None = None) -> ir.Value:
        """A constant: of the element type of ``like``, or of ``dtype``, or int64."""
        kind = like.dtype.numpy() if like is not None and like.dtype is not None else np.dtype(dtype or np.int64)
        return add_constant(self._graph, self._fresh, f"{self._label}_constant", np.asarray(content, kind))

    def reduce(self, op: str, value: ir.Value, axes: Sequence[int], *, keepdims: bool = True) -> ir.Value:
        """``ReduceSum``, ``ReduceMean`` or the like along axes."""
        since = _AXES_GIVEN if op == "ReduceSum" else _AXES_GIVEN_EVERYWHERE
        if self.opset >= since:
            return self.op(op, value, self.constant(axes), having={"keepdims": int(keepdims)})
        return self.op(op, value, having={"axes": list(axes), "keepdims": int(keepdims)})

    def reshaped(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """``value`` in another shape; 0 keeps a dimension, and -1 is what is left."""
        return self.op("Reshape", value, self.constant(shape))

    def unsqueezed(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """``value`` with dimensions of size 1 at ``axes``."""
        if self.opset >= _AXES_GIVEN:
            return self.op("Unsqueeze", value, self.constant(axes))
        return self.op("Unsqueeze", value, having={"axes": list(axes)})

    def squeezed(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """``value`` without the dimensions at ``axes``, which are of size 1."""
        if self.opset >= _AXES_GIVEN:
            return self.op("Squeeze", value, self.constant(axes))
        return self.op("Squeeze", value, having={"axes": list(axes)})

    def cast(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        """``value`` in another element type."""
        return self.op("Cast", value, dtype=kind, having={"to": int(kind)})

    def replace(self, *results: ir.Value | None) -> None:
        """Let ``results`` stand for the outputs of the node, which is removed; ``None`` for one that nothing reads."""
        for old, result in zip(self.node.outputs, results, strict=False):
            if result is None:
                continue
            taken = old.is_graph_output() and (result.producer() is None or result.is_graph_output())
            new = self.op("Identity", result) if taken else result
            if new.producer() is not None:
                new.shape = new.shape or old.shape
                new.type = old.type or new.type
            name, public = old.name, old.is_graph_output()
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            if public:
                old.name, new.name = None, name
        self._graph.remove(self.node, safe=True)


def attribute(node: ir.Node, name: str, default: float) -> float:
    """A number among the attributes of a node."""
    found = node.attributes.get(name)
    if found is None:
        return default
    return float(found.as_int() if found.type == ir.AttributeType.INT else found.as_float())


def text(node: ir.Node, name: str, default: str) -> str:
    """A string among the attributes of a node."""
    found = node.attributes.get(name)
    return default if found is None else found.as_string()


def sizes(value: ir.Value | None) -> list[int] | None:
    """The shape of a value, if all of it is known."""
    if value is None or value.shape is None or not all(isinstance(dim, int) for dim in value.shape):
        return None
    return [dim for dim in value.shape if isinstance(dim, int)]
