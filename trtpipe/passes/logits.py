"""Judge what goes into a saturating output rather than the output: it hides noise, or magnifies it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

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
