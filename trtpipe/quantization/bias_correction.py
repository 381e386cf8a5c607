"""Bias correction: take out of a weighted node's result what quantization adds to it on average.

Rounding weights and clipping activations shifts a channel's mean, the same way for all samples; the bias can take
that back. Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction",
arXiv:1906.04721, section 4.2, with means that were measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import add_constant, array_of, drop_unused_constants, is_constant
from trtpipe.passes.expose import expose_too
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, enclosing, owners_of, result_of
from trtpipe.quantization.channel_measures import Channels, add_measure, name_outputs
from trtpipe.quantization.plan import bound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.quantization.plan import QuantizationPlan

#: Feeds that it takes to find corrections on one half of them, and to evaluate them on the other.
FEWEST = 8


def correctable(model: ir.Model, plan: QuantizationPlan) -> dict[str, int]:
    """Output of a quantized node with a bias to correct -> its channels, in graph order.

    A Conv, ConvTranspose or Gemm may lack the bias, it gets one; a MatMul must have an Add of a constant behind it.
    Nodes in the bodies of loops are left out: their means differ from step to step.
    """
    owners = owners_of(model)
    return {
        result_of(node): channels
        for point, node in bound(model, plan.points)
        if point.weight is not None
        and (channels := _channels(node, point.axis)) is not None
        and all(owner.op_type == "If" for owner in enclosing(node, owners))
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
        nodes = [node for node in model.graph.all_nodes() if result_of(node) in self._corrections]
        for node in nodes:
            _correct(node, self._corrections[result_of(node)], fresh)
        drop_unused_constants(model)
        return PassResult(self.name, modified=bool(nodes))


def measure_means(model: ir.Model, outputs: Mapping[str, int]) -> dict[str, str]:
    """Make ``model`` also give the mean of every channel of ``outputs``, in place.

    Args:
        outputs: from ``correctable``.

    Returns:
        Output -> name of the graph output float32[samples or 1, channels, 1...] with its means.
    """
    fresh = FreshNames(model)
    found = {name: result_of(_mean(node, outputs[name], fresh)[-1]) for name, node in _nodes(model, outputs).items()}
    expose_too(model, list(found.values()))
    return found


@dataclass(frozen=True)
class Correcting:
    """Names in a graph that corrects the means of a node by itself.

    Attributes:
        expected: graph input that takes the means the node shall have, shaped as ``measure_means`` gives them.
        added: graph output with what was added for it, shaped alike.
    """

    expected: str
    added: str


def correct_means(model: ir.Model, outputs: Mapping[str, int]) -> dict[str, Correcting]:
    """Make ``model`` add to every one of ``outputs`` what gives its channels the means they are fed, in place.

    What comes after a node sees its corrected result, so one run corrects all nodes one after the other.
    """
    fresh = FreshNames(model)
    found = {name: _correcting(model, node, outputs[name], fresh) for name, node in _nodes(model, outputs).items()}
    expose_too(model, [each.added for each in found.values()])
    return found


def _nodes(model: ir.Model, outputs: Mapping[str, int]) -> dict[str, ir.Node]:
    nodes = {result_of(node): node for node in model.graph.all_nodes()}
    return {name: nodes[name] for name in outputs}


def _channels(node: ir.Node, axis: int) -> int | None:
    kernel = array_of(node.inputs[1])
    if kernel is None:
        return None
    if node.op_type == "MatMul":
        return int(kernel.shape[1]) if kernel.ndim == 2 and _added(node) is not None else None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and (not is_constant(bias) or bias.shape is None or len(bias.shape) != 1):
        return None
    channels = int(kernel.shape[axis])
    if node.op_type == "Gemm":
        return channels if node.attributes.get_float("beta", 1.0) == 1 else None
    if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1:
        return None
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


def _correcting(model: ir.Model, node: ir.Node, channels: int, fresh: FreshNames) -> Correcting:
    value, graph = node.outputs[0], node.graph
    assert isinstance(graph, ir.Graph)
    measuring = _mean(node, channels, fresh)
    mean = measuring[-1].outputs[0]
    expected = ir.val(fresh(f"{value.name}__expected"), ir.DataType.FLOAT, mean.shape)
    model.graph.inputs.append(expected)
    made = [ir.node("Sub", [expected, mean])]
    added = made[0].outputs[0]
    if not _is_map(node):  # [1, channels, 1] -> [channels], to be added along the last axis
        made.append(ir.node("Reshape", [added, add_constant(graph, fresh, "row", np.array([-1], np.int64))]))
    made.append(ir.node("Add", [value, made[-1].outputs[0]]))
    name_outputs(made, value, fresh)
    corrected = made[-1].outputs[0]
    for use in list(value.uses()):
        if use.node is not made[-1] and use.node not in measuring:
            use.node.replace_input_with(use.idx, corrected)
    if value.is_graph_output():  # the interface goes by names
        for index, output in enumerate(model.graph.outputs):
            if output is value:
                model.graph.outputs[index] = corrected
        value.name, corrected.name = fresh(f"{value.name}__before"), value.name
    graph.insert_after(measuring[-1], made)
    return Correcting(str(expected.name), str(added.name))


def _is_map(node: ir.Node) -> bool:
    return node.op_type.startswith("Conv")


def _mean(node: ir.Node, channels: int, fresh: FreshNames) -> list[ir.Node]:
    """Insert behind ``node`` what takes the mean of its result over all axes but samples and channels: the nodes."""
    kernel = node.inputs[1]
    assert kernel is not None and kernel.shape is not None  # noqa: PT018
    rank = len(kernel.shape) if _is_map(node) else 0
    return add_measure(node.outputs[0], Channels(channels, rank), ("GlobalAveragePool",), fresh, node)


def typical_correction(corrections: np.ndarray) -> np.ndarray:
    """What to add for all feeds, drawn towards 0 as far as it may be chance.

    ``c * max(0, 1 - var(c) / (n c**2))`` for the mean ``c`` over n feeds: the positive part of the estimator of James
    and Stein (1961), with the target 0.

    Args:
        corrections: float64[feeds, channels], what every feed wanted; NaN for feeds that did not reach the node.

    Returns:
        float32[channels]; 0 from fewer than two feeds.
    """
    corrections = corrections[~np.isnan(corrections).any(axis=1)]
    count = corrections.shape[0]
    if count < 2:
        return np.zeros(corrections.shape[1], np.float32)
    mean = corrections.mean(axis=0)
    chance = corrections.var(axis=0, ddof=1) / count
    share = 1 - chance / np.maximum(mean**2, np.finfo(np.float64).tiny)
    drawn: np.ndarray = (mean * np.clip(share, 0, 1)).astype(np.float32)
    return drawn
