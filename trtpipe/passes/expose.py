"""Make inner tensors visible: replace a graph's outputs by the tensors to observe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common

from trtpipe.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Sequence


def expose(model: ir.Model, tensors: Sequence[str]) -> None:
    """Give ``model`` exactly the outputs ``tensors``, in that order, and drop nodes none of them needs.

    Graph inputs among ``tensors`` are left out: their values are known to the caller. If nothing else remains, the
    original outputs stay, so that the graph can still run. The model's interface changes on purpose, so this is no
    ordinary pass.
    """
    inputs = {value.name for value in model.graph.inputs}
    values = {value.name: value for node in model.graph for value in node.outputs if value.name}
    wanted = [name for name in tensors if name not in inputs]
    if unknown := [name for name in wanted if name not in values]:
        raise InternalError(f"no node produces the tensor {unknown[0]!r}")
    if not wanted:
        return
    model.graph.outputs.clear()
    for name in wanted:
        value = values[name]
        value.dtype = value.dtype or ir.DataType.FLOAT
        model.graph.outputs.append(value)
    common.RemoveUnusedNodesPass()(model)
