"""Make inner tensors visible: replace a graph's outputs by the tensors to observe, out of any depth of bodies.

A tensor inside the body of an If becomes one more output of that If; the other branch gives an empty tensor for it, so
that nothing is counted for a branch that was not taken. In a Loop or Scan it becomes a scan output: the values of all
iterations, stacked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from trtpipe.errors import InternalError, StageError
from trtpipe.passes.graph_pass import owners_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def expose(model: ir.Model, tensors: Sequence[str]) -> None:
    """Give ``model`` exactly the outputs ``tensors``, in that order, and drop nodes none of them needs.

    Graph inputs among ``tensors`` are left out: their values are known to the caller. If nothing else remains, the
    original outputs stay, so that the graph can still run. The model's interface changes on purpose, so this is no
    ordinary pass.

    Raises:
        StageError: a tensor lies in the body of an operator other than If, Loop and Scan.
    """
    inputs = {value.name for value in model.graph.inputs}
    values = {value.name: value for node in model.graph.all_nodes() for value in node.outputs if value.name}
    wanted = [name for name in tensors if name not in inputs]
    if unknown := [name for name in wanted if name not in values]:
        raise InternalError(f"no node produces the tensor {unknown[0]!r}")
    if not wanted:
        return
    model.graph.outputs.clear()
    _append(model, [values[name] for name in wanted])
    common.RemoveUnusedNodesPass()(model)


def expose_too(model: ir.Model, tensors: Sequence[str]) -> None:
    """Give ``model`` the outputs ``tensors``, which nodes produce, behind those it has.

    Raises:
        StageError: as for ``expose``.
    """
    values = {value.name: value for node in model.graph.all_nodes() for value in node.outputs}
    _append(model, [values[name] for name in tensors])


def _append(model: ir.Model, values: Sequence[ir.Value]) -> None:
    owners = owners_of(model)
    lifted = [_lifted(value, owners) for value in values]
    for inside, value in zip(values, lifted, strict=True):
        value.dtype = value.dtype or ir.DataType.FLOAT
        if value is not inside:
            name, inside.name = inside.name, f"{inside.name}__inside"
            value.name = name
        model.graph.outputs.append(value)


def _lifted(value: ir.Value, owners: dict[ir.Graph, ir.Node]) -> ir.Value:
    """``value`` as a value of the main graph."""
    producer = value.producer()
    assert producer is not None
    while isinstance(body := producer.graph, ir.Graph) and body in owners:
        producer = owners[body]
        value = _output_of(producer, body, value)
    return value


def _output_of(owner: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
    """A new output of ``owner`` that carries ``value`` out of its ``body``."""
    if owner.op_type not in ("If", "Loop", "Scan"):
        raise StageError(
            f"tensor {value.name!r} is inside a {owner.op_type} and cannot be observed", "keep its node with --keep"
        )
    inner = ir.Value(name=f"{value.name}__out", type=ir.TensorType(value.dtype or ir.DataType.FLOAT))
    body.append(ir.Node("", "Identity", [value], outputs=[inner]))
    body.outputs.append(inner)
    if owner.op_type == "If":
        for name in ("then_branch", "else_branch"):
            other = owner.attributes[name].as_graph()
            if other is not body:
                other.outputs.append(_empty(other, f"{value.name}__none", inner))
    for name in ("scan_output_axes", "scan_output_directions"):
        if owner.op_type == "Scan" and name in owner.attributes:
            owner.attributes[name] = ir.AttrInt64s(name, [*owner.attributes[name].as_ints(), 0])
    owner.resize_outputs(len(owner.outputs) + 1)
    outer = owner.outputs[-1]
    outer.name, outer.type = f"{value.name}__lifted", ir.TensorType(inner.dtype or ir.DataType.FLOAT)
    return outer


def _empty(graph: ir.Graph, name: str, like: ir.Value) -> ir.Value:
    dtype = like.dtype or ir.DataType.FLOAT
    tensor = ir.tensor(np.zeros(0, dtype.numpy()), name=name)
    node = ir.node("Constant", [], {"value": tensor})
    node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(dtype)
    graph.append(node)
    return node.outputs[0]
