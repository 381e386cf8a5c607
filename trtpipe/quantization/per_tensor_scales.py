"""Convolutions with one scale a channel, rewritten so that the scale of the weight is one number.

``Conv(x, DQ(w, s[c]), b)`` becomes ``Conv(x, DQ(w, t)) * (s[c] / t) + b`` with ``t`` a power of two, so the products of
scales are exact and the accuracy of one scale a channel stays. TensorRT-RTX 1.7 lets an INT8 convolution write 16 bits
only where the scale of its weight is one number, else it writes float32 (docs/engine-report.md has the figures).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.config.formats import FP16, INT8
from trtpipe.passes.constants import add_constant
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, node_label
from trtpipe.passes.operators import is_standard, made_by

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The largest magnitude that a float16 accumulator may reach before the channel's scale is applied.
_LARGEST = 2.0**15
_SMALLEST_NORMAL = FP16.normal
#: A step between two sums is at least 16 times the smallest float16, so its rounding is lost in that of the weights.
_SMALLEST_STEP = 2.0**-20


class SplitScales(GraphPass):
    """Move the per-channel scales of INT8 convolutions behind them.

    1. Only Conv whose weight is a per-channel INT8 constant behind a DQ, whose data comes from a DQ with one constant
       scale, and whose result is float16.
    2. The one scale is the largest of the channels', or less, so that no sum can overflow float16, whatever the data
       (128 times the largest sum of absolute weights of a channel times both scales is at most 2^15), and so that what
       is left for every channel is a normal float16.
    3. Where the step between two sums would vanish below float16's smallest numbers, the convolution stays as it is.
    """

    name = "split_scales"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every convolution that qualifies."""
        fresh = FreshNames(model)
        found = [each for node in model.graph.all_nodes() if (each := _Split.of(node)) is not None]
        for split in found:
            split.apply(fresh)
        return PassResult(self.name, modified=bool(found))


class _Split:
    """One convolution: its weight behind ``dequantize``, and the two factors of its scales."""

    def __init__(self, node: ir.Node, dequantize: ir.Node, common: float, channels: np.ndarray) -> None:
        self._node = node
        self._dequantize = dequantize
        self._common = common
        self._channels = channels

    @classmethod
    def of(cls, node: ir.Node) -> _Split | None:
        """The split of a convolution, or ``None`` where the rules above leave it alone."""
        if node.op_type != "Conv" or not is_standard(node) or node.outputs[0].dtype != ir.DataType[FP16.onnx]:
            return None
        data, weight = (made_by(value, "DequantizeLinear") for value in node.inputs[:2])
        if data is None or weight is None or node.outputs[0].is_graph_output():
            return None
        activation, kernel, scales = _constant(data, 1), _constant(weight, 0), _constant(weight, 1)
        if activation is None or kernel is None or scales is None or activation.size != 1 or scales.ndim != 1:
            return None
        if kernel.dtype != INT8.dtype:
            return None
        sums = np.abs(kernel.astype(np.float64)).reshape(kernel.shape[0], -1).sum(axis=1)
        step = float(activation.reshape(-1)[0])
        if not sums.max() * step > 0 or not scales.min() > 0 or weight.attributes.get_int("axis", 1) != 0:
            return None
        channels = scales.astype(np.float64)
        safe = _LARGEST / (128.0 * float(sums.max()) * step)
        most = min(2 * channels.max(), safe, channels.min() / _SMALLEST_NORMAL)
        common = float(2.0 ** np.floor(np.log2(most)))  # the largest power of two up to that
        fits = common >= _SMALLEST_NORMAL and common * step >= _SMALLEST_STEP and channels.max() / common <= _LARGEST
        return cls(node, weight, common, channels / common) if fits else None

    def apply(self, fresh: FreshNames) -> None:
        """Give the weight one scale, and multiply by the channels' own behind the convolution, before its bias."""
        node, graph = self._node, self._node.graph
        assert isinstance(graph, ir.Graph)
        label, result = node_label(node), node.outputs[0]
        users = [(use.node, use.idx) for use in result.uses()]
        shape = (1, -1, *[1] * (len(result.shape) - 2 if result.shape is not None else 2))
        node.replace_input_with(1, self._weight(graph, fresh, label))
        factors = self._channels.reshape(shape).astype(FP16.dtype)
        scaled = [result, add_constant(graph, fresh, f"{label}_channel_scale", factors)]
        steps = [_node("Mul", scaled, f"{label}_channel_scaled", f"{label}_channel_scaled_output", result, fresh)]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            node.resize_inputs(2)
            biased = [steps[0].outputs[0], self._bias(graph, fresh, label, bias, shape)]
            steps.append(_node("Add", biased, f"{label}_biased", f"{label}_biased_output", result, fresh))
        graph.insert_after(node, steps)
        for user, index in users:
            user.replace_input_with(index, steps[-1].outputs[0])

    def _weight(self, graph: ir.Graph, fresh: FreshNames, label: str) -> ir.Value:
        """A DQ of the same weight with one scale; the old one is removed when nothing reads it any more."""
        old = self._dequantize
        inputs = [
            old.inputs[0],
            add_constant(graph, fresh, f"{label}_weight_scale", np.asarray(self._common, FP16.dtype)),
            add_constant(graph, fresh, f"{label}_weight_zero_point", np.zeros((), INT8.dtype)),
        ]
        name, output = f"{label}_weight_dequantize", f"{label}_weight_dequantized"
        node = _node("DequantizeLinear", inputs, name, output, old.outputs[0], fresh)
        graph.insert_before(self._node, [node])
        self._node.replace_input_with(1, node.outputs[0])
        if not old.outputs[0].uses() and old.graph is not None:
            old.graph.remove(old, safe=True)
        return node.outputs[0]

    def _bias(self, graph: ir.Graph, fresh: FreshNames, label: str, bias: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        if bias.const_value is not None:
            values = bias.const_value.numpy().reshape(shape).astype(FP16.dtype)
            return add_constant(graph, fresh, f"{label}_bias", values)
        extents = add_constant(graph, fresh, f"{label}_bias_shape", np.asarray(shape, np.int64))
        names = f"{label}_bias_reshape", f"{label}_bias_reshaped"
        node = _node("Reshape", [bias, extents], *names, bias, fresh)
        node.outputs[0].shape = ir.Shape([dim if dim > 0 else None for dim in shape])
        graph.insert_before(self._node, [node])
        return node.outputs[0]


def _node(
    op: str, inputs: Sequence[ir.Value | None], name: str, output: str, like: ir.Value, fresh: FreshNames
) -> ir.Node:
    """A new node, whose result has the type and shape of ``like``."""
    made = ir.val(fresh(output), shape=like.shape, type=like.type)
    return ir.node(op, inputs, outputs=[made], name=fresh(name))


def _constant(node: ir.Node, index: int) -> np.ndarray | None:
    value = node.inputs[index]
    return None if value is None or value.const_value is None else value.const_value.numpy()
