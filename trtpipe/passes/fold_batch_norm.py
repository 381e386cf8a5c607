"""Fold what follows a convolution or matrix product channel by channel into its weight and bias.

At inference a batch normalization is an affine map a channel: ``y = (x - mean) / sqrt(var + eps) * gamma + beta``
(Ioffe and Szegedy 2015, arXiv:1502.03167). After a linear operator it disappears into that operator's constants; so
does a constant added to each channel. Ranges are then taken of what TensorRT really computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import add_constant, along, array_of, drop_unused, replace_value
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult

_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class _Affine:
    """``y = x * scale + shift`` by channel, float64; both ``[channels]``, or of one element for all channels."""

    scale: np.ndarray
    shift: np.ndarray


class FoldBatchNorm(GraphPass):
    """Fold a channel-wise affine map into the linear node before it.

    1. BatchNormalization (inference form) after Conv, ConvTranspose or Gemm, and after MatMul of rank 2 (a Gemm then).
    2. Add of a constant that varies along the channel axis only, after Conv or ConvTranspose.
    3. Only where the linear node's result is read by nothing else, its weight is a float32 constant, and a Gemm has
       ``alpha`` and ``beta`` 1. The arithmetic is float64, rounded once; weights shared with other nodes are copied.
    """

    name = "fold_batch_norm"

    def call(self, model: ir.Model) -> PassResult:
        """Fold until nothing more folds: a convolution may be followed by a sum and a normalization."""
        fresh = FreshNames(model)
        modified = False
        for node in list(model.graph.all_nodes()):
            affine = _affine(node)
            linear = node.inputs[0].producer() if affine is not None and node.inputs[0] is not None else None
            if affine is None and node.op_type == "Add":
                linear, affine = _channel_sum(node)
            if affine is not None and linear is not None and _foldable(linear, node) and _fits(linear, affine):
                _fold(linear, node, affine, fresh)
                modified = True
        if modified:
            drop_unused(model)
        return PassResult(self.name, modified=modified)


def _affine(node: ir.Node) -> _Affine | None:
    """The map a BatchNormalization of constants computes; ``None`` for anything else."""
    given = node.attributes
    if (
        node.op_type != "BatchNormalization"
        or given.get_int("training_mode", 0) != 0
        or not given.get_int("spatial", 1)
    ):
        return None
    constants = [array_of(value) for value in node.inputs[1:5]]
    gamma, beta, mean, variance = (None if a is None else a.astype(np.float64) for a in constants)
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    if not gamma.shape == beta.shape == mean.shape == variance.shape or gamma.ndim != 1:
        return None
    scale = gamma / np.sqrt(variance + given.get_float("epsilon", 1e-5))
    return _Affine(scale, beta - mean * scale)


def _channel_sum(node: ir.Node) -> tuple[ir.Node | None, _Affine | None]:
    """(convolution, map) of an Add that gives each channel of a convolution's result a constant."""
    for value, other in (node.inputs[:2], node.inputs[1::-1]):
        linear = value.producer() if value is not None else None
        array = array_of(other)
        if linear is None or linear.op_type not in _CONVOLUTIONS or array is None:
            continue
        kernel = linear.inputs[1]
        rank = len(kernel.const_value.shape) if kernel is not None and kernel.const_value is not None else 0
        aligned: tuple[int, ...] = (1,) * (rank - array.ndim) + array.shape
        if 2 <= rank == len(aligned) and array.size == aligned[1]:
            return linear, _Affine(np.ones(1), array.reshape(-1).astype(np.float64))
    return None, None


def _foldable(linear: ir.Node, follower: ir.Node) -> bool:
    """Whether ``linear`` is a linear operator with a constant weight whose result ``follower`` alone reads."""
    result = linear.outputs[0]
    if len(tuple(result.uses())) != 1 or result.is_graph_output() or linear.graph is not follower.graph:
        return False
    weight = array_of(linear.inputs[1]) if len(linear.inputs) > 1 else None
    bias = linear.inputs[2] if len(linear.inputs) > 2 else None
    if weight is None or weight.dtype != np.float32 or (bias is not None and array_of(bias) is None):
        return False
    if linear.op_type == "Gemm":
        return all(linear.attributes.get_float(name, 1.0) == 1 for name in ("alpha", "beta"))
    if linear.op_type == "MatMul":
        shape = result.shape
        return weight.ndim == 2 and shape is not None and len(shape) == 2
    return linear.op_type in _CONVOLUTIONS


def _fits(linear: ir.Node, affine: _Affine) -> bool:
    """Whether the map has a number for every channel, or one for all; a broken model may say anything."""
    weight = array_of(linear.inputs[1])
    old = array_of(linear.inputs[2]) if len(linear.inputs) > 2 else None
    if weight is None or weight.ndim < 2 or weight.shape[0] % _groups(linear):
        return False
    sizes = {affine.scale.size, affine.shift.size, 1 if old is None else old.size}
    return sizes <= {1, _channels(linear, weight)}


def _channels(linear: ir.Node, weight: np.ndarray) -> int:
    if linear.op_type == "ConvTranspose":
        return int(weight.shape[1]) * _groups(linear)
    return int(weight.shape[_channel_axis(linear)])


def _channel_axis(linear: ir.Node) -> int:
    return 0 if linear.op_type == "Conv" or linear.attributes.get_int("transB", 0) != 0 else 1


def _groups(linear: ir.Node) -> int:
    return max(1, linear.attributes.get_int("group", 1)) if linear.op_type == "ConvTranspose" else 1


def _fold(linear: ir.Node, follower: ir.Node, affine: _Affine, fresh: FreshNames) -> None:
    """One node in place of both, where the second one stood; it is called as the linear one was."""
    graph, weight, old = linear.graph, array_of(linear.inputs[1]), follower.outputs[0]
    assert isinstance(graph, ir.Graph)
    assert weight is not None
    old_bias = array_of(linear.inputs[2]) if len(linear.inputs) > 2 else None
    channels = _channels(linear, weight)
    folded = _scaled(linear, weight, affine.scale, channels)
    bias = (0.0 if old_bias is None else old_bias.astype(np.float64)) * affine.scale + affine.shift
    bias = np.broadcast_to(bias.reshape(-1), (channels,)).astype(np.float32)
    inputs = [
        linear.inputs[0],
        add_constant(graph, fresh, f"{old.name}_weight", folded),
        add_constant(graph, fresh, f"{old.name}_bias", bias),
    ]
    op = "Gemm" if linear.op_type == "MatMul" else linear.op_type
    output = ir.val(fresh(f"{old.name}_folded"), shape=old.shape, type=old.type)
    node = ir.Node(linear.domain, op, inputs, linear.attributes.values(), outputs=[output], name=linear.name)
    graph.insert_before(follower, [node])
    replace_value(old, output)
    graph.remove(follower, safe=True)
    graph.remove(linear, safe=True)


def _scaled(linear: ir.Node, weight: np.ndarray, scale: np.ndarray, channels: int) -> np.ndarray:
    """The weight with its output channels scaled."""
    wide = weight.astype(np.float64)
    if linear.op_type == "ConvTranspose":  # [in, out / group, ...]: group g of the inputs makes group g of the outputs
        groups = _groups(linear)
        factor = np.broadcast_to(scale, (channels,)).reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        parts = wide.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        scaled: np.ndarray = (parts * factor).reshape(weight.shape).astype(np.float32)
        return scaled
    whole: np.ndarray = wide * along(np.broadcast_to(scale, (channels,)), _channel_axis(linear), weight.ndim)
    return whole.astype(np.float32)
