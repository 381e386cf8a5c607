"""Where factors per channel can be hidden: in constants before an activation that scale all of it, and only it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import add_constant, array_of, is_constant
from trtpipe.passes.operators import ACTIVATIONS, ARITHMETIC, is_standard

if TYPE_CHECKING:
    from trtpipe.passes.graph_pass import FreshNames

#: f(c x) = c f(x) for every c above 0
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "Identity"})
#: they pass on the last axis as it is, if its size stays
_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_NORMALISATIONS = frozenset({"LayerNormalization", "RMSNormalization"})
_REACH = 8


@dataclass(frozen=True)
class Scaling:
    """A constant input of a node that scales the node's result channel by channel.

    Attributes:
        node, index: whose input it is, and which.
        axis: the constant's axis along which the channels lie.
    """

    node: ir.Node
    index: int
    axis: int

    def divide(self, factors: np.ndarray, fresh: FreshNames) -> None:
        """Divide it by ``factors``, float32[channels], for this node only."""
        value, graph = self.node.inputs[self.index], self.node.graph
        array = array_of(value)
        assert value is not None
        assert array is not None
        assert isinstance(graph, ir.Graph)
        shaped = factors.reshape([-1 if i == self.axis else 1 for i in range(array.ndim)])
        self.node.replace_input_with(self.index, add_constant(graph, fresh, f"{value.name}_smoothed", array / shaped))


def foldable(value: ir.Value, axis: int, channels: int) -> tuple[Scaling, ...] | None:
    """The constants that, divided by factors, divide ``value`` by them; ``None`` if there are none.

    They are the weight and bias of the convolution, product or normalization that makes it, behind any activations f
    with f(c x) = c f(x); nothing else may read what lies between.

    Args:
        axis: the channel axis of ``value``: 1, or -1 for the last.
        channels: its length.
    """
    found: list[Scaling] = []
    for _ in range(_REACH):
        node = value.producer()
        if node is None or not is_standard(node):
            return None
        if node.op_type in _HOMOGENEOUS or (axis == -1 and _keeps_last(node)):
            source = node.inputs[0]
        elif node.op_type == "Add" and (index := _bias_index(node, axis, channels)) is not None:
            constant = node.inputs[index]
            assert constant is not None
            assert constant.shape is not None
            rank = len(constant.shape)
            found.append(Scaling(node, index, _channel_axis(constant, channels) if axis == 1 else rank - 1))
            source = node.inputs[1 - index]
        else:
            ends = _ends(node, axis, channels)
            return None if ends is None else (*found, *ends)
        if source is None or len(source.uses()) != 1 or source.is_graph_output() or source.graph is not node.graph:
            return None
        value = source
    return None


def pointwise(value: ir.Value) -> bool:
    """Whether a normalization or a pointwise operator makes ``value``, perhaps reshaped: one more factor fuses."""
    for _ in range(_REACH):
        node = value.producer()
        if node is None or not is_standard(node):
            return False
        if node.op_type in _NORMALISATIONS | ACTIVATIONS | ARITHMETIC:
            return True
        source = node.inputs[0] if _keeps_last(node) else None
        if source is None:
            return False
        value = source
    return False


def _keeps_last(node: ir.Node) -> bool:
    if node.op_type not in _RESHAPES or node.inputs[0] is None:
        return False
    before, after = (value.shape for value in (node.inputs[0], node.outputs[0]))
    if not before or not after or not isinstance(before[-1], int):
        return False
    return before[-1] == after[-1]


def _bias_index(node: ir.Node, axis: int, channels: int) -> int | None:
    """Which operand of an Add is one constant number per channel."""
    for index, value in enumerate(node.inputs):
        if value is None or not is_constant(value) or value.shape is None:
            continue
        sizes = [int(size) for size in value.shape if isinstance(size, int)]
        if int(np.prod(sizes)) != channels:
            continue
        if axis == -1 and sizes[-1] == channels:
            return index
        rank = len(node.outputs[0].shape) if node.outputs[0].shape is not None else 0
        if axis == 1 and rank > 1 and len(sizes) in (rank, rank - 1) and sizes[1 - rank] == channels:
            return index
    return None


def _channel_axis(constant: ir.Value, channels: int) -> int:
    assert constant.shape is not None
    return [int(size) for size in constant.shape if isinstance(size, int)].index(channels)


def _ends(node: ir.Node, axis: int, channels: int) -> tuple[Scaling, ...] | None:
    """The scaling constants of the node that makes the activation."""
    if (node.op_type in _NORMALISATIONS and axis == -1) or (node.op_type == "Conv" and axis == 1):
        weights, along = [1, 2], 0
    elif node.op_type == "Gemm" and axis == -1:
        flag = node.attributes.get("transB")
        weights, along = [1, 2], 0 if flag is not None and flag.as_int() else 1
    elif node.op_type == "MatMul" and axis == -1:
        weights, along = [1], 1
    else:
        return None
    scalings: list[Scaling] = []
    for index in weights:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            continue
        array = array_of(value)
        if array is None or array.dtype != np.float32:
            return None
        place = along if index == 1 else array.ndim - 1
        if array.ndim <= place or place < 0 or array.shape[place] != channels:
            return None
        scalings.append(Scaling(node, index, place))
    return tuple(scalings) if scalings else None
