"""What TensorRT does not take of a model that some other tool quantized."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.config.formats import FORMATS
from trtpipe.passes.constants import array_of
from trtpipe.passes.graph_pass import node_label
from trtpipe.passes.standard_quantizers import DEQUANTIZE, QUANTIZE, is_simulated

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Operators that compute with quantized tensors, or quantize values as they come.
_DYNAMIC = frozenset({"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"})
_MICROSOFT = "com.microsoft"
#: Beginnings and parts of the names that onnxruntime gives to its quantized operators.
_WORDS = ("QLinear", "QGemm", "QAttention", "DynamicQuantize", "MatMulInteger", "NBits", "QMoE", "QEmbed", "BnB4")
#: The integers that TensorRT's quantizers store; floating-point types are the target's own business.
_TAKEN = tuple(ir.DataType[form.onnx] for form in FORMATS if form.quantized and form.kind == "integer")


def foreign_quantizers(model: ir.Model) -> str | None:
    """What is quantized in a way that TensorRT does not take, in one sentence; ``None`` if nothing is."""
    return next(_found(model), None)


def _found(model: ir.Model) -> Iterator[str]:
    for node in model.graph.all_nodes():
        where = f"node {node_label(node)!r}"
        standard = node.domain in ("", "ai.onnx")
        if is_simulated(node):
            yield f"weights are marked for quantization, but still floats ({where} is a {node.op_type} of domain trt)"
        if standard and node.op_type in _DYNAMIC:
            yield f"it is quantized dynamically ({where} is a {node.op_type}), and TensorRT needs scales that are fixed"
        elif (standard and node.op_type.startswith("QLinear")) or (
            node.domain == _MICROSOFT and any(word in node.op_type for word in _WORDS)
        ):
            yield f"it is quantized in operators that TensorRT does not have ({where} is a {node.op_type})"
        elif standard and node.op_type in (QUANTIZE, DEQUANTIZE) and (reason := _refused(node)) is not None:
            yield f"it is quantized {reason} ({where} is a {node.op_type}), and TensorRT takes signed integers around 0"


def _refused(node: ir.Node) -> str | None:
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    stored = (
        node.outputs[0].dtype if node.op_type == QUANTIZE else None if node.inputs[0] is None else node.inputs[0].dtype
    )
    if stored is not None and stored.is_integer() and stored not in _TAKEN:
        return f"to {stored.name.lower()}"
    values = array_of(zero)
    if values is not None and values.astype(float).any():
        return f"with a zero point of {values.astype(float).reshape(-1)[values.astype(float).reshape(-1) != 0][0]:g}"
    return "with a zero point that is computed" if zero is not None and values is None else None
