"""What ONNX's shape inference lets pass although no engine can run it, and the words for what does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import NodeProto, TypeProto

#: Operators whose windows may be larger than what they slide over: the result would have no elements.
_WINDOWS = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool", "ConvInteger", "QLinearConv", "ConvTranspose"})
_MOST_SHOWN = 4
#: The elements TensorRT can count, by its own words.
_MOST_ELEMENTS = 1 << 40


def not_taken(node: NodeProto, types: Mapping[str, TypeProto], contents: Mapping[str, np.ndarray]) -> str:
    """Words for an operator that does not take the shapes of its inputs."""
    shown = [_described(name, types, contents) for name in node.input[:_MOST_SHOWN] if name]
    return f"does not take {' and '.join(shown)}"


def wrong(
    node: NodeProto,
    types: Mapping[str, TypeProto],
    contents: Mapping[str, np.ndarray],
    found: Mapping[str, TypeProto],
) -> str | None:
    """What is wrong with a node whose outputs have the types ``found``; ``None`` where nothing is."""
    for kind in found.values():
        if (count := np.prod(_known(kind), dtype=np.float64)) > _MOST_ELEMENTS:
            return f"makes {_size(kind)}, and TensorRT counts to {_MOST_ELEMENTS} elements, not to {count:.3g}"
    if node.op_type == "Gather" and node.input[1] in contents:
        return _beyond_table(node, types, contents[node.input[1]])
    if node.op_type == "Reshape":
        return _other_count(types[node.input[0]], found.get(node.output[0]))
    if node.op_type in _WINDOWS and any(dim <= 0 for dim in _known(found.get(node.output[0]))):
        return f"slides over {_size(types[node.input[0]])}, which is smaller than its window"
    return None


def _beyond_table(node: NodeProto, types: Mapping[str, TypeProto], indices: np.ndarray) -> str | None:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    dims = dims_of(types[node.input[0]])
    if dims is None or not -len(dims) <= axis < len(dims) or not indices.size:
        return None
    rows = dims[axis]
    low, high = int(indices.min()), int(indices.max())
    if rows is None or (-rows <= low and high < rows):
        return None
    return f"reads entry {high if high >= rows else low} of a table of {rows}"


def _other_count(before: TypeProto, after: TypeProto | None) -> str | None:
    first, second = dims_of(before), None if after is None else dims_of(after)
    if first is None or second is None or None in first or None in second:
        return None
    counts = [np.prod([dim or 0 for dim in dims], dtype=np.float64) for dims in (first, second)]
    return None if counts[0] == counts[1] else f"cannot make {_text(second)} of {_text(first)}"


def dims_of(kind: TypeProto) -> tuple[int | None, ...] | None:
    """The sizes of a tensor type, ``None`` for each that is not known; ``None`` if not even the rank is."""
    if not kind.tensor_type.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.tensor_type.shape.dim)


def _known(kind: TypeProto | None) -> list[int]:
    return [] if kind is None else [dim for dim in dims_of(kind) or () if dim is not None]


def _text(dims: tuple[int | None, ...]) -> str:
    return "x".join("?" if dim is None else str(dim) for dim in dims) or "a scalar"


def _size(kind: TypeProto) -> str:
    dims = dims_of(kind)
    return "an unknown shape" if dims is None else _text(dims)


def _described(name: str, types: Mapping[str, TypeProto], contents: Mapping[str, np.ndarray]) -> str:
    value = contents.get(name)
    if value is not None and value.ndim <= 1 and value.size <= 8 and np.issubdtype(value.dtype, np.integer):
        return f"the numbers {value.reshape(-1).tolist()}"
    return _size(types[name])
