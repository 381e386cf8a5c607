"""Judge what an output is made from where the output tells little of noise: it saturates, or is a mere choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Outputs of these saturate: they hide noise where they are sure of themselves, and magnify it where they are not.
_SATURATING = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
#: The number of the best says nothing of how much better it is.
_CHOOSING = frozenset({"ArgMax", "ArgMin"})


def show_logits(model: ir.Model) -> None:
    """Replace every graph output that a saturating or choosing operator makes by that operator's input, in place."""
    for index, value in enumerate(model.graph.outputs):
        for logits in _sources(value):
            if not logits.is_graph_input() and logits not in model.graph.outputs:
                model.graph.outputs[index] = logits


def _sources(value: ir.Value) -> Iterator[ir.Value]:
    """Scores that a choice is made by, logits that a saturating output is made of."""
    for operators in (_CHOOSING, _SATURATING):
        node = value.producer()
        if node is None or node.op_type not in operators or node.inputs[0] is None:
            continue
        source = node.inputs[0]
        if source.dtype is None and value.dtype is not None and operators is _SATURATING:
            source.dtype = value.dtype
        if source.dtype != (ir.DataType.FLOAT if operators is _CHOOSING else value.dtype):
            return
        value = source
        yield value
