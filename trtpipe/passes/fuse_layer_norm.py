"""Write a layer normalization that is spelled out in elementary operators as one LayerNormalization (opset 17).

Its definition keeps mean and variance in float32 whatever the data's type, so in 16 bits the fused form does not
overflow where the spelled-out one does (``(x - mean)^2`` beyond 65504), and TensorRT maps it to one kernel.
Definition: Ba, Kiros and Hinton 2016, arXiv:1607.06450; ONNX operator LayerNormalization-17.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import add_constant, array_of, drop_unused, replace_value, scalar_of
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult
from trtpipe.passes.operators import made_by

if TYPE_CHECKING:
    from collections.abc import Iterator

_LEAST_OPSET = 17


@dataclass(frozen=True)
class LayerNorm:
    """A recognized layer normalization of ``x`` over its last axes.

    Attributes:
        x: the value normalized.
        extent: the sizes of the axes that are normalized.
        epsilon: added to the variance.
        scale, bias: constants of the normalized shape; ``None`` where there is none.
        output: the value to replace.
        nodes: the nodes it is made of, in no particular order.
    """

    x: ir.Value
    extent: tuple[int, ...]
    epsilon: float
    scale: np.ndarray | None
    bias: np.ndarray | None
    output: ir.Value
    nodes: tuple[ir.Node, ...]


class FuseLayerNorm(GraphPass):
    """Replace spelled-out layer normalizations.

    1. ``(x - mean) / sqrt(mean((x - mean)^2) + eps)``, with the square as Pow or Mul, the division as Div or as a
       product with Reciprocal or with the power -1/2, the mean computed once or twice; then an optional product with a
       constant and an optional sum with one.
    2. Only float32, over the last axes, and only where the extent of those axes is known.
    3. Values that others read stay, with the nodes that compute them.
    """

    name = "fuse_layer_norm"

    def call(self, model: ir.Model) -> PassResult:
        """Fuse all of them; a model below opset 17 stays as it is."""
        if model.graph.opset_imports.get("", 0) < _LEAST_OPSET:
            return PassResult(self.name, modified=False)
        found = [norm for node in list(model.graph.all_nodes()) if (norm := layer_norm_at(node)) is not None]
        fresh = FreshNames(model)
        for norm in found:
            _fuse(norm, fresh)
        if found:
            drop_unused(model)
        return PassResult(self.name, modified=bool(found))


def layer_norm_at(node: ir.Node) -> LayerNorm | None:
    """The layer normalization whose dividing node is ``node``; ``None`` if there is none."""
    for deviation, spread, inner in _quotients(node):
        norm = _normalized(node, deviation, spread, inner)
        if norm is not None:
            return norm
    return None


def _quotients(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value, tuple[ir.Node, ...]]]:
    """(numerator, variance + eps, nodes between) of a node that divides by a square root."""
    if node.op_type == "Div":
        root = made_by(node.inputs[1], "Sqrt")
        if root is not None and node.inputs[0] is not None and root.inputs[0] is not None:
            yield node.inputs[0], root.inputs[0], (root,)
    if node.op_type != "Mul":
        return
    for numerator, factor in _orders(node):
        power, reciprocal = made_by(factor, "Pow"), made_by(factor, "Reciprocal")
        root = made_by(reciprocal.inputs[0], "Sqrt") if reciprocal is not None else None
        if power is not None and scalar_of(power.inputs[1]) == -0.5 and power.inputs[0] is not None:
            yield numerator, power.inputs[0], (power,)
        elif reciprocal is not None and root is not None and root.inputs[0] is not None:
            yield numerator, root.inputs[0], (reciprocal, root)


def _normalized(node: ir.Node, deviation: ir.Value, spread: ir.Value, inner: tuple[ir.Node, ...]) -> LayerNorm | None:
    shifted = made_by(spread, "Add")
    centered = _centered(deviation)
    if shifted is None or centered is None:
        return None
    x, trailing, centring = centered
    for variance, constant in _orders(shifted):
        epsilon, mean = scalar_of(constant), made_by(variance, "ReduceMean")
        square = _square_of(mean.inputs[0]) if mean is not None else None
        if epsilon is None or mean is None or square is None or _trailing_axes(mean, x) != trailing:
            continue
        again = _centered(square[0])
        if again is not None and again[0] is x and again[1] == trailing and x.dtype == ir.DataType.FLOAT:
            nodes = (node, *inner, shifted, mean, square[1], *centring, *again[2])
            return _with_affine(x, trailing, epsilon, tuple(dict.fromkeys(nodes)))
    return None


def _with_affine(x: ir.Value, trailing: int, epsilon: float, nodes: tuple[ir.Node, ...]) -> LayerNorm | None:
    """Take in the product and the sum with constants that follow; the extent must be known."""
    known = x.shape is not None and len(x.shape) >= trailing
    sizes = x.shape[-trailing:] if x.shape is not None and known else (None,) * trailing
    extent = tuple(size if isinstance(size, int) else None for size in sizes)
    output = nodes[0].outputs[0]
    constants: dict[str, np.ndarray] = {}
    for op in ("Mul", "Add"):
        follower = _only_reader(output, op)
        other = next((v for v in follower.inputs if v is not output), None) if follower is not None else None
        array = _trailing_array(array_of(other), extent)
        if follower is not None and array is not None:
            constants[op], extent = array, array.shape
            output, nodes = follower.outputs[0], (*nodes, follower)
    found = tuple(size for size in extent if size is not None)
    if len(found) < len(extent):
        return None
    return LayerNorm(x, found, epsilon, constants.get("Mul"), constants.get("Add"), output, nodes)


def _trailing_array(array: np.ndarray | None, extent: tuple[int | None, ...]) -> np.ndarray | None:
    """``array`` in the shape of the normalized axes, if it varies along those only."""
    if array is None or np.prod(array.shape[: -len(extent)], dtype=np.int64) != 1:
        return None
    own = array.reshape(array.shape[-len(extent) :])
    if None in extent:
        return own if own.ndim == len(extent) and min(own.shape) > 1 else None
    try:
        return np.ascontiguousarray(np.broadcast_to(own, [size or 0 for size in extent]))
    except ValueError:
        return None


def _centered(value: ir.Value | None) -> tuple[ir.Value, int, tuple[ir.Node, ...]] | None:
    """(x, number of axes, nodes) where ``value`` is x minus its mean over the last axes."""
    difference = made_by(value, "Sub")
    mean = made_by(difference.inputs[1], "ReduceMean") if difference is not None else None
    if difference is None or mean is None or mean.inputs[0] is not difference.inputs[0] or mean.inputs[0] is None:
        return None
    trailing = _trailing_axes(mean, mean.inputs[0])
    return None if trailing is None else (mean.inputs[0], trailing, (difference, mean))


def _square_of(value: ir.Value | None) -> tuple[ir.Value, ir.Node] | None:
    power, product = made_by(value, "Pow"), made_by(value, "Mul")
    if power is not None and scalar_of(power.inputs[1]) == 2 and power.inputs[0] is not None:
        return power.inputs[0], power
    if product is not None and product.inputs[0] is product.inputs[1] and product.inputs[0] is not None:
        return product.inputs[0], product
    return None


def _trailing_axes(mean: ir.Node, x: ir.Value) -> int | None:
    """How many axes, counted from the end, a ReduceMean of a value of ``x``'s rank averages over.

    ``None`` if these are not just the last ones, or are unknown.
    """
    given = array_of(mean.inputs[1]) if len(mean.inputs) > 1 else None
    axes = list(mean.attributes.get_ints("axes", () if given is None else given.reshape(-1).tolist()))
    if not axes or not mean.attributes.get_int("keepdims", 1):
        return None
    if any(axis >= 0 for axis in axes):
        if x.shape is None:
            return None
        axes = [axis - len(x.shape) if axis >= 0 else axis for axis in axes]
    return len(axes) if sorted(axes) == list(range(-len(axes), 0)) else None


def _fuse(norm: LayerNorm, fresh: FreshNames) -> None:
    node = norm.nodes[0]
    graph, name = norm.output.graph, norm.output.name
    last = norm.output.producer()
    assert isinstance(graph, ir.Graph)
    assert last is not None
    scale = norm.scale if norm.scale is not None else np.ones(norm.extent, np.float32)
    inputs = [norm.x, add_constant(graph, fresh, f"{name}_scale", scale)]
    if norm.bias is not None:
        inputs.append(add_constant(graph, fresh, f"{name}_bias", norm.bias))
    output = ir.val(fresh(f"{name}_normalized"), shape=norm.output.shape, type=norm.output.type)
    attributes = {"axis": -len(norm.extent), "epsilon": norm.epsilon}
    label = f"{node.name or name}_layer_norm"
    graph.insert_before(last, [ir.node("LayerNormalization", inputs, attributes, outputs=[output], name=label)])
    replace_value(norm.output, output)


def _orders(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The two inputs in both orders."""
    first, second = node.inputs[0], node.inputs[1]
    if first is not None and second is not None:
        yield first, second
        yield second, first


def _only_reader(value: ir.Value, op: str) -> ir.Node | None:
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.op_type != op:
        return None
    return uses[0].node if uses[0].node.graph is value.graph else None
