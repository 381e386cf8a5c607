"""Compare what an output is computed from, where the output itself says little about quantization noise.

Such an output saturates, is an index, or is a Concat of parts of which the largest would dominate the noise figure:
boxes in pixels are hundreds of times larger than the scores of a detector.
"""

from __future__ import annotations

import onnx_ir as ir

from trtpipe.passes.operators import is_standard

#: Outputs of these saturate: noise is attenuated near 0 and 1, and not in between.
_SATURATING = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
#: An index does not say by how much the value at it exceeds the others.
_CHOOSING = frozenset({"ArgMax", "ArgMin"})
#: These move values and compute none.
_MOVING = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity"})


def show_logits(model: ir.Model, *, beside: bool = False) -> tuple[str, ...]:
    """Replace graph outputs in place: by logits, by the scores behind an index, by the parts of a Concat.

    Args:
        beside: whether the outputs that are replaced stay, behind the others.

    Returns:
        Names of what outputs were replaced by, or of outputs that tell by themselves.
    """
    found: dict[ir.Value, None] = {}
    for value in model.graph.outputs:
        sources = [each for each in _sources(value) if not each.is_graph_input()]
        fresh = [each for each in sources if each not in model.graph.outputs and each not in found]
        found.update(dict.fromkeys(fresh or [value]))
    rest = [value for value in model.graph.outputs if value not in found] if beside else []
    model.graph.outputs[:] = [*found, *rest]
    return tuple(str(value.name) for value in found)


def _sources(value: ir.Value) -> tuple[ir.Value, ...]:
    """What shows the noise in ``value``: the value itself, or all it is made from."""
    node = value.producer()
    source: ir.Value | None = None if node is None else next(iter(node.inputs), None)
    if node is None or source is None or not is_standard(node):
        return (value,)
    if node.op_type in _CHOOSING and source.dtype == ir.DataType.FLOAT:
        return _sources(source)
    if node.op_type in _SATURATING:
        if source.dtype is None and value.dtype is not None:
            source.dtype = value.dtype
        return (source,) if source.dtype == value.dtype else (value,)
    if node.op_type in _MOVING:
        sources = _sources(source)
        return (value,) if sources == (source,) else sources
    if node.op_type == "Concat":
        parts = [part for part in node.inputs if part is not None and part.const_value is None]
        return tuple(each for part in parts if part.dtype == value.dtype for each in _sources(part)) or (value,)
    return (value,)
