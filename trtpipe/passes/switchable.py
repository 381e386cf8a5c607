"""Quantise a graph so that its activation scales are graph inputs: one graph for every choice of ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.errors import InternalError
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.passes.insert_qdq import InsertQDQ
from trtpipe.passes.placement import place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.calibration.quantiser import EightBit
    from trtpipe.recipe import WeightMethod


def make_switchable(
    model: ir.Model, precision: EightBit, amax: Mapping[str, float], keep: tuple[str, ...], weights: WeightMethod
) -> dict[str, str]:
    """Quantise ``model`` in place exactly as lowering does, then turn every activation scale into a graph input.

    Args:
        amax: tensor -> any range above 0; which one does not matter, it is replaced by what is fed.

    Returns:
        Tensor -> name of the float32 scalar input that takes its scale (amax / largest value of the format). Tensors
        that got no pair are left out. Tensors that share one scale have one input: feed the largest.
    """
    run_passes(model, [InferTypes()])
    leaders = {name: group[0] for group in place(model, keep).groups for name in group}
    run_passes(model, [InsertQDQ(precision, amax, keep, weights)])
    inputs: dict[str, ir.Value] = {}
    switched: dict[str, str] = {}
    for node in list(model.graph.all_nodes()):
        data = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        scale = None if data is None or data.name not in amax else node.inputs[1]
        if data is None or scale is None or not isinstance(scale.graph, ir.Graph) or not scale.is_initializer():
            continue
        tensor = leaders.get(str(data.name), str(data.name))
        if tensor not in inputs:
            inputs[tensor] = ir.Value(
                name=f"{tensor}__scale", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.FLOAT)
            )
            model.graph.inputs.append(inputs[tensor])
        switched[str(data.name)] = str(inputs[tensor].name)
        del scale.graph.initializers[str(scale.name)]
        ir.convenience.replace_all_uses_with(scale, inputs[tensor])
    if not inputs and amax:
        raise InternalError("no tensor with a range was quantised")
    return switched


#: Outputs of these saturate: they hide noise where they are sure of themselves, and magnify it where they are not.
_SATURATING = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})


def show_logits(model: ir.Model) -> None:
    """Replace every graph output that a saturating operator makes by that operator's input, in place."""
    for index, value in enumerate(model.graph.outputs):
        node = value.producer()
        if node is not None and node.op_type in _SATURATING and node.inputs[0] is not None:
            logits = node.inputs[0]
            if logits.dtype is None and value.dtype is not None:
                logits.dtype = value.dtype
            if logits.dtype == value.dtype and not logits.is_graph_input() and logits not in model.graph.outputs:
                model.graph.outputs[index] = logits
