"""Make inner tensors visible: replace a graph's outputs by the tensors to observe, out of any depth of bodies.

A tensor inside the body of an If becomes one more output of that If; the other branch gives an empty tensor for it, so
that nothing is counted for a branch that was not taken. In a Scan it becomes a scan output, the values of all
iterations stacked; in a Loop a state that every iteration adds its values to, in one dimension.
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
    wanted = [name for name in tensors if name not in inputs]
    known = _values(model)
    if unknown := [name for name in wanted if name not in known]:
        raise InternalError(f"no node produces the tensor {unknown[0]!r}")
    if not wanted:
        return
    _append(model, wanted, replace=True)
    common.RemoveUnusedNodesPass()(model)


def expose_too(model: ir.Model, tensors: Sequence[str]) -> None:
    """Give ``model`` the outputs ``tensors``, which nodes produce, behind those it has.

    Raises:
        StageError: as for ``expose``.
    """
    _append(model, tensors, replace=False)


def _append(model: ir.Model, tensors: Sequence[str], *, replace: bool) -> None:
    owners, known = owners_of(model), _values(model)
    for name in tensors:
        _lift(known[name], owners)
    outputs = _values(model)  # again: a Loop's outputs move up when it gets another state
    if replace:
        model.graph.outputs.clear()
    for name in tensors:
        value = outputs[name]
        value.dtype = value.dtype or ir.DataType.FLOAT
        model.graph.outputs.append(value)


def _values(model: ir.Model) -> dict[str, ir.Value]:
    made = (value for node in model.graph.all_nodes() for value in node.outputs)
    given = (value for body in model.graph.subgraphs() for value in body.inputs)
    return {value.name: value for value in (*made, *given) if value.name}


def _lift(value: ir.Value, owners: dict[ir.Graph, ir.Node]) -> None:
    """Bring ``value`` out of all bodies; what comes out takes its name."""
    name, inside = value.name, value
    while isinstance(body := value.graph, ir.Graph) and body in owners:
        value = _output_of(owners[body], body, value)
    if value is not inside:
        inside.name, value.name = f"{name}__inside", name


def _output_of(owner: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
    """A new output of ``owner`` that carries ``value`` out of its ``body``."""
    out = {"If": _out_of_branch, "Loop": _out_of_loop, "Scan": _out_of_scan}.get(owner.op_type)
    if out is None:
        where = f"tensor {value.name!r} is inside a {owner.op_type}"
        raise StageError(f"{where} and cannot be observed", "keep its node with --keep")
    return out(owner, body, value)


def _out_of_branch(owner: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
    inner = _copied(body, value)
    body.outputs.append(inner)
    for name in ("then_branch", "else_branch"):
        other = owner.attributes[name].as_graph()
        if other is not body:
            other.outputs.append(_empty(other, f"{value.name}__none", inner))
    return _new_output(owner, value)


def _out_of_scan(owner: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
    """One more scan output: the values of all iterations, stacked."""
    body.outputs.append(_copied(body, value))
    for name in ("scan_output_axes", "scan_output_directions"):
        if name in owner.attributes:
            owner.attributes[name] = ir.AttrInt64s(name, [*owner.attributes[name].as_ints(), 0])
    return _new_output(owner, value)


def _out_of_loop(owner: ir.Node, body: ir.Graph, value: ir.Value) -> ir.Value:
    """One more state, to which every iteration appends its values, flattened.

    A scan output would not do: it wants one shape in all iterations, and the state of a Loop may grow, or a branch be
    taken only sometimes.
    """
    assert isinstance(owner.graph, ir.Graph)
    owner.resize_inputs(max(len(owner.inputs), 2))  # a trip count and a condition, both optional, come first
    states = len(owner.inputs) - 2
    start = _empty(owner.graph, f"{value.name}__start", value, before=owner)
    owner.resize_inputs(states + 3)
    owner.replace_input_with(states + 2, start)
    sofar = ir.val(f"{value.name}__sofar", _dtype(value), [None])
    body.inputs.append(sofar)
    flat_shape, name = ir.val(f"{value.name}__flat_shape"), f"{value.name}__flat_shape"
    flat, joined = ir.val(f"{value.name}__flat"), ir.val(f"{value.name}__joined", _dtype(value))
    body.append(ir.node("Constant", [], {"value": ir.tensor(np.array([-1]), name=name)}, outputs=[flat_shape]))
    body.append(ir.node("Reshape", [value, flat_shape], outputs=[flat]))
    body.append(ir.node("Concat", [sofar, flat], {"axis": 0}, outputs=[joined]))
    body.outputs.insert(1 + states, joined)
    _new_output(owner, value)
    for index in range(len(owner.outputs) - 1, states, -1):  # scan outputs come after all states: one place on
        before, after = owner.outputs[index - 1], owner.outputs[index]
        ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
        before.name, after.name = after.name, before.name
        before.type, after.type = after.type, before.type
        before.shape, after.shape = None, before.shape
    return owner.outputs[states]


def _copied(body: ir.Graph, value: ir.Value) -> ir.Value:
    inner = ir.val(f"{value.name}__out", _dtype(value))
    body.append(ir.node("Identity", [value], outputs=[inner]))
    return inner


def _new_output(owner: ir.Node, value: ir.Value) -> ir.Value:
    owner.resize_outputs(len(owner.outputs) + 1)
    outer = owner.outputs[-1]
    outer.name, outer.dtype = f"{value.name}__lifted", _dtype(value)
    return outer


def _dtype(value: ir.Value) -> ir.DataType:
    return value.dtype or ir.DataType.FLOAT


def _empty(graph: ir.Graph, name: str, like: ir.Value, before: ir.Node | None = None) -> ir.Value:
    tensor = ir.tensor(np.zeros(0, _dtype(like).numpy()), name=name)
    node = ir.node("Constant", [], {"value": tensor}, outputs=[ir.val(name, _dtype(like))])
    if before is None:
        graph.append(node)
    else:
        graph.insert_before(before, [node])
    return node.outputs[0]
