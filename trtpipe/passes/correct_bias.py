"""Bias correction: take out of a weighted node's result what quantisation adds to it on average.

Rounding weights and clipping activations shifts a channel's mean, the same way for all samples; the bias can take
that back. Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction",
arXiv:1906.04721, section 4.2, with means that were measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import add_constant, array_of, drop_unused_constants, is_constant
from trtpipe.passes.expose import expose_too
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, owners_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trtpipe.passes.placement import Placement


def correctable(model: ir.Model, placement: Placement) -> dict[str, int]:
    """Output of a quantised node with a bias to correct -> its channels, in graph order.

    A Conv, ConvTranspose or Gemm may lack the bias, it gets one; a MatMul must have an Add of a constant behind it.
    Nodes in the bodies of loops are left out: their means differ from step to step.
    """
    owners = owners_of(model)
    return {
        str(point.node.outputs[0].name): channels
        for point in placement.points
        if point.weight is not None
        and (channels := _channels(point.node, point.axis)) is not None
        and in_branches_only(point.node, owners)
    }


class CorrectBias(GraphPass):
    """Add given numbers to biases.

    Args:
        corrections: output of a weighted node -> float32[channels] to add to its bias.
    """

    name = "correct_bias"

    def __init__(self, corrections: Mapping[str, np.ndarray]) -> None:
        self._corrections = corrections

    def call(self, model: ir.Model) -> PassResult:
        """Replace the biases."""
        fresh = FreshNames(model)
        nodes = [node for node in model.graph.all_nodes() if node.outputs and node.outputs[0].name in self._corrections]
        for node in nodes:
            _correct(node, self._corrections[str(node.outputs[0].name)], fresh)
        drop_unused_constants(model)
        return PassResult(self.name, modified=bool(nodes))


def measure_means(model: ir.Model, outputs: Mapping[str, int], *, adjustable: bool) -> dict[str, tuple[str, str]]:
    """Make ``model`` give the mean of every channel of ``outputs``, in place; its interface changes on purpose.

    Args:
        outputs: from ``correctable``.
        adjustable: also let a new graph input be added to each output before its mean is taken.

    Returns:
        Output -> (name of the graph output float32[samples, channels, 1...] with its means, name of the input
        float32[channels, 1...] that is added; empty if not ``adjustable``).
    """
    fresh = FreshNames(model)
    found: dict[str, tuple[str, str]] = {}
    nodes = {str(node.outputs[0].name): node for node in model.graph.all_nodes() if node.outputs}
    for name, channels in outputs.items():
        node = nodes[name]
        value, given = node.outputs[0], ""
        if adjustable:
            value, given = _adjusted(model, node, channels, fresh)
        found[name] = _mean(value, node, channels, fresh), given
    expose_too(model, [mean for mean, _ in found.values()])
    return found


def shape_of_correction(channels: int, rank: int) -> tuple[int, ...]:
    """How a correction is fed: the channels, then an axis of 1 for every axis behind them."""
    return (channels, *(1,) * (rank - 2))


def _channels(node: ir.Node, axis: int) -> int | None:
    kernel = array_of(node.inputs[1])
    if kernel is None:
        return None
    if node.op_type == "MatMul":
        return int(kernel.shape[1]) if kernel.ndim == 2 and _added(node) is not None else None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and (not is_constant(bias) or bias.shape is None or len(bias.shape) != 1):
        return None
    if node.op_type == "Gemm":
        beta = node.attributes.get("beta")
        return int(kernel.shape[axis]) if beta is None or beta.as_float() == 1 else None
    if node.op_type == "ConvTranspose" and (group := node.attributes.get("group")) is not None and group.as_int() != 1:
        return None
    channels = int(kernel.shape[axis])
    return channels if bias is None or bias.shape is None or bias.shape[0] == channels else None


def _added(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add that alone reads ``node``'s result, and which of its operands is a constant vector."""
    value = node.outputs[0]
    uses = list(value.uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or value.is_graph_output():
        return None
    add, index = uses[0].node, 1 - uses[0].idx
    other = add.inputs[index]
    constant = other is not None and is_constant(other) and other.shape is not None and len(other.shape) == 1
    return (add, index) if constant and add.graph is node.graph else None


def in_branches_only(node: ir.Node, owners: Mapping[ir.Graph, ir.Node]) -> bool:
    """Whether ``node`` runs at most once a run: no body but branches of If contains it."""
    graph = node.graph
    while isinstance(graph, ir.Graph) and graph in owners:
        if owners[graph].op_type != "If":
            return False
        graph = owners[graph].graph
    return True


def _correct(node: ir.Node, correction: np.ndarray, fresh: FreshNames) -> None:
    index = 2
    if node.op_type == "MatMul":
        found = _added(node)
        if found is None:
            return
        node, index = found
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    old = node.inputs[index] if index < len(node.inputs) else None
    array = array_of(old)
    base = f"{node.outputs[0].name}_bias" if old is None else str(old.name)
    value = correction if array is None else array + correction
    node.resize_inputs(max(len(node.inputs), index + 1))
    node.replace_input_with(index, add_constant(graph, fresh, f"{base}_corrected", value.astype(np.float32)))


def _rank(node: ir.Node) -> int:
    """Of its result, where channels are not the last axis."""
    kernel = node.inputs[1]
    if kernel is not None and kernel.shape is None and (made := kernel.producer()) is not None:
        kernel = made.inputs[0]
    assert kernel is not None
    assert kernel.shape is not None
    return len(kernel.shape)


def _adjusted(model: ir.Model, node: ir.Node, channels: int, fresh: FreshNames) -> tuple[ir.Value, str]:
    value, graph = node.outputs[0], node.graph
    assert isinstance(graph, ir.Graph)
    shape = shape_of_correction(channels, _rank(node) if node.op_type.startswith("Conv") else 2)
    given = ir.Value(
        name=fresh(f"{value.name}__correction"), shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT)
    )
    model.graph.inputs.append(given)
    add = ir.node("Add", [value, given])
    made = add.outputs[0]
    made.name, made.type = fresh(f"{value.name}__corrected"), ir.TensorType(ir.DataType.FLOAT)
    outputs = value.is_graph_output()
    ir.convenience.replace_all_uses_with(value, made, replace_graph_outputs=True)
    if outputs:  # the interface goes by names
        value.name, made.name = fresh(f"{value.name}__uncorrected"), value.name
    add.replace_input_with(0, value)
    graph.insert_after(node, [add])
    return made, str(given.name)


def _mean(value: ir.Value, node: ir.Node, channels: int, fresh: FreshNames) -> str:
    """Append to the value's graph the mean over all axes but samples and channels; works from opset 1 on."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    parts: Iterable[tuple[str, list[ir.Value], dict[str, ir.Attr]]] = ()
    if not node.op_type.startswith("Conv"):  # [..., channels] -> [1, channels, everything else]
        rows = add_constant(graph, fresh, "rows", np.array([-1, channels], np.int64))
        map_ = add_constant(graph, fresh, "map", np.array([1, channels, -1], np.int64))
        parts = (
            ("Reshape", [rows], {}),
            ("Transpose", [], {"perm": ir.AttrInt64s("perm", [1, 0])}),
            ("Reshape", [map_], {}),
        )
    for op_type, more, attributes in (*parts, ("GlobalAveragePool", [], {})):
        made = ir.Node("", op_type, [value, *more], attributes)
        made.outputs[0].name, made.outputs[0].type = fresh(f"{node.name}__{op_type}"), ir.TensorType(ir.DataType.FLOAT)
        graph.append(made)
        value = made.outputs[0]
    return str(value.name)
