"""What kind of operator is it, where quantization is concerned."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx_ir as ir

#: operators with a weight, whose multiply-accumulates 8 bits make cheap; all take it as their second input
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: matrix products, whose "weight" may be an activation
PRODUCTS = frozenset({"Gemm", "MatMul"})
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
CONTAINERS = frozenset({"If", "Loop", "Scan", "SequenceMap"})
NORMALISATIONS = frozenset(
    {
        "LayerNormalization", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization",
        "MeanVarianceNormalization", "RMSNormalization", "LRN", "SkipLayerNormalization",
    }
)  # fmt: skip
SOFTMAXES = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
#: pointwise functions of one value
ACTIVATIONS = frozenset(
    {
        "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish", "Swish",
        "Mish", "Tanh", "Softplus", "Softsign", "ThresholdedRelu", "Clip", "Erf", "Exp", "Log", "Sqrt", "Reciprocal",
        "Pow", "Abs", "Neg", "Floor", "Ceil", "Round", "Sin", "Cos", "Sign",
    }
)  # fmt: skip
#: pointwise functions of two values
ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "Where", "Mod"})
POOLS = frozenset({"AveragePool", "GlobalAveragePool"})
#: operators that move or choose values: rounding them before is the same as rounding them after
_MOVES = frozenset(
    {
        "Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "Expand",
        "Tile", "Gather", "MaxPool", "GlobalMaxPool", "DepthToSpace", "SpaceToDepth", "Dropout",
    }
)  # fmt: skip


#: operators whose results are all elements of their first input
PURE_MOVES = frozenset(
    {
        "Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Expand", "Tile", "Slice", "Split",
        "Gather", "GatherElements", "GatherND", "DepthToSpace", "SpaceToDepth",
    }
)  # fmt: skip


def is_standard(node: ir.Node) -> bool:
    """Whether the operator is ONNX's own."""
    return node.domain in ("", "ai.onnx")


def is_plugin(node: ir.Node) -> bool:
    """Whether a node can only be a plug-in's: an operator that neither ONNX nor ONNX Runtime has, nor TensorRT's parser
    as a quantizer of its own (``TRT_FP8QuantizeLinear`` and the like). Call it where no functions are left.
    """
    import onnx

    domain = "" if node.domain == "ai.onnx" else node.domain
    known = domain.startswith("com.microsoft") or node.op_type.startswith("TRT_")
    return not known and not onnx.defs.has(node.op_type, domain)


def made_by(value: ir.Value | None, op: str) -> ir.Node | None:
    """The node that makes ``value``, if it is ONNX's operator ``op``."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op and is_standard(node) else None


def computed_floats(values: Iterable[ir.Value | None]) -> list[ir.Value]:
    """Those of ``values`` that are float32 and no constants."""
    import onnx_ir as ir

    there = (value for value in values if value is not None and value.const_value is None)
    return [value for value in there if value.dtype == ir.DataType.FLOAT]


def origin(value: ir.Value) -> ir.Value:
    """The value whose elements ``value`` shows: moved, and perhaps rounded to 8 bits and back, but not computed."""
    while (node := value.producer()) is not None:
        source = node.inputs[0] if node.op_type in PURE_MOVES | {"QuantizeLinear", "DequantizeLinear"} else None
        if source is None:
            break
        value = source
    return value


def moved_values(node: ir.Node) -> Iterator[ir.Value]:
    """The inputs of which ``node`` passes on values unchanged; nothing if it computes new ones.

    Quantization commutes with such a node, if all its data has one scale: NVIDIA's "commuting layers". A Pad with
    anything but zeros, and a Resize that interpolates, do not commute.
    """
    if not is_standard(node) or not _moves(node):
        return
    for value in node.inputs if node.op_type == "Concat" else node.inputs[:1]:
        if value is not None:
            yield value


def _moves(node: ir.Node) -> bool:
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    if node.op_type == "Pad":
        filler = node.inputs[2] if len(node.inputs) > 2 else None
        zero = filler is None or (filler.const_value is not None and not filler.const_value.numpy().any())
        return zero or node.attributes.get_string("mode", "constant") != "constant"
    return node.op_type in _MOVES
