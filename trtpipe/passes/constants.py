"""Constants of a graph: reading them as arrays, adding new ones, dropping unused ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trtpipe.passes.graph_pass import graphs_of

if TYPE_CHECKING:
    from trtpipe.passes.graph_pass import FreshNames


def is_constant(value: ir.Value | None) -> bool:
    """Whether ``value`` is an initializer with known content; an input with a default is none."""
    return value is not None and value.const_value is not None and value.is_initializer() and not value.is_graph_input()


def array_of(value: ir.Value | None) -> np.ndarray | None:
    """The content of a constant; ``None`` for everything else."""
    if value is None or not is_constant(value):
        return None
    assert value.const_value is not None
    return value.const_value.numpy()


def scalar_of(value: ir.Value | None) -> float | None:
    """The only element of a constant, whatever its rank; ``None`` for everything else."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    array = array_of(value)
    return None if array is None else float(array.reshape(-1)[0])


def add_constant(graph: ir.Graph, fresh: FreshNames, name: str, array: np.ndarray) -> ir.Value:
    """A new initializer of ``graph``, called ``name`` or the like."""
    unique = fresh(name)
    value = ir.val(unique, const_value=ir.tensor(array, name=unique))
    graph.register_initializer(value)
    return value


def drop_unused_constants(model: ir.Model) -> None:
    """Remove every initializer that no node and no output reads."""
    for graph in graphs_of(model):
        unused = [n for n, v in graph.initializers.items() if not v.uses() and not v.is_graph_output()]
        for name in unused:
            del graph.initializers[name]


def drop_unused(model: ir.Model) -> None:
    """Remove every node whose results nothing reads, and then every such initializer."""
    common.RemoveUnusedNodesPass()(model)
    drop_unused_constants(model)


def along(vector: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """``vector`` shaped to spread along ``axis`` of an array of ``rank`` axes; a single number where that is None."""
    return vector.reshape([-1 if axis is not None and index == axis % rank else 1 for index in range(rank)])


def channel_rows(array: np.ndarray, axis: int | None) -> np.ndarray:
    """``array`` as [channels along ``axis``, everything else]; as one row where that is None."""
    return array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` stand wherever ``old`` stood: for all readers, and as an output under the old name."""
    graph_outputs = old.is_graph_output()
    name = old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    if graph_outputs:
        old.name, new.name = f"{name}__replaced", name
