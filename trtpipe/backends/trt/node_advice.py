"""What to do about one node that TensorRT refuses: advice that is true of its operator, and the user's line."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.backends.trt.error_guide import advice_behind
from trtpipe.backends.trt.flavor import TITLES
from trtpipe.config.formats import HALF_FORMATS
from trtpipe.passes.node_names import line_of
from trtpipe.passes.operators import is_plugin, is_standard, made_by

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.backends.trt.flavor import Flavor
    from trtpipe.errors import StageError

_COUNT = (
    "how many elements it returns depends on values: compute all elements and choose by a mask (Where, or a product "
    "with 0 and 1), or a fixed number of them (TopK)"
)
_INTEGER_PRODUCT = (
    "it computes in integers that ONNX Runtime's quantizer chose; TensorRT quantizes by Q/DQ pairs: build from the "
    "float model with --int8 and calibration data"
)
_REDUCTION = (
    "TensorRT scatters with no such reduction: write it as a product with a one-hot matrix, or as a pooling over a "
    "dense grid; or compute it before the engine and pass it as an input"
)
_SEQUENCE = "TensorRT has no sequences: return or pass one tensor each, or one tensor with an axis for the elements"
_EINSUM = (
    "TensorRT's Einsum takes floats; one of integers is written as Mul and ReduceSum where repeated indices have known "
    "sizes and every ellipsis has as many dimensions, as ONNX demands: write it so, or cast its operands to float"
)
_RESIZED = (
    "TensorRT resizes floats only, and of integers only the mode nearest can be moved behind a Cast exactly (other "
    "modes round to integers first): cast to float before the Resize"
)
_TEXT = "TensorRT has no texts: convert them outside the model, and pass numbers"
_RANDOM = "TensorRT draws no random numbers of this kind: pass them as an input"

#: operator -> what to do. Of operators that some version of TensorRT's parser refuses, whatever their types are.
_BY_OPERATOR: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("NonZero", "Compress", "Unique"), _COUNT),
        **dict.fromkeys(
            ("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"), _INTEGER_PRODUCT
        ),
        **dict.fromkeys(("ScatterElements", "ScatterND"), _REDUCTION),
        **dict.fromkeys(
            ("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
             "SequenceMap", "SplitToSequence", "ConcatFromSequence"), _SEQUENCE,
        ),
        **dict.fromkeys(("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch"), _TEXT),
        **dict.fromkeys(("Multinomial", "Bernoulli"), _RANDOM),
    }
)  # fmt: skip
#: The same of operators that TensorRT takes where their first input is of floats.
_OF_INTEGERS: Mapping[str, str] = MappingProxyType({"Einsum": _EINSUM, "Resize": _RESIZED})
#: The attribute without which an operator of the table is taken.
_NEEDS: Mapping[str, str] = MappingProxyType({"ScatterElements": "reduction", "ScatterND": "reduction"})


def explained(
    error: StageError, node: ir.Node, flavor: Flavor, *, lowered: bool, branch_of: ir.Node | None = None
) -> str:
    """The remedy of ``error`` for the node that causes it.

    Args:
        lowered: whether the graph was lowered, so that keeping the node in float32 may help.
        branch_of: the If in one of whose branches the node lies.
    """
    if (own := _own_advice(node, flavor)) is not None:
        return own
    advice = advice_behind(error.remedy)
    if branch_of is not None and advice is not None and not advice.cause:
        return (
            f"the node lies in a branch of the If {branch_of.name!r}: give the size or value that decides which one is "
            "taken the same min, opt and max (--shapes INPUT:VALUE for a value), and the other is not built"
        )
    if lowered and node.name and (advice is None or advice.of_types) and _in_few_bits(node):
        return f"{error.remedy}; or keep the node in float32: --keep {node.name!r}"
    return error.remedy


def with_lines(message: str, nodes: Sequence[ir.Node]) -> str:
    """A message with the user's line behind the operator of every node that it names with one."""
    for node in nodes:
        named = f"{node.name!r} ({node.op_type}"
        if node.name and named in message and (line := line_of(node)):
            message = message.replace(named, f"{named}, {line}")
    return message


def _own_advice(node: ir.Node, flavor: Flavor) -> str | None:
    if is_plugin(node):
        library = "name the library of a plug-in of your own in the profile's [build] plugins"
        if flavor == "tensorrt":
            return f"{TITLES[flavor]} has no operator or plug-in {node.op_type}: {library}"
        return (
            f"{TITLES[flavor]} comes without plug-ins, of which the other flavor, TensorRT, has many: build with "
            f"--backend tensorrt on a machine with the target's GPU; or {library}"
        )
    if not is_standard(node) or (node.op_type in _NEEDS and _NEEDS[node.op_type] not in node.attributes):
        return None
    if node.op_type in _OF_INTEGERS and _reads_integers(node):
        return _OF_INTEGERS[node.op_type]
    return _BY_OPERATOR.get(node.op_type)


def _reads_integers(node: ir.Node) -> bool:
    kind = None if node.inputs[0] is None else node.inputs[0].dtype
    return kind is not None and kind.is_integer()


def _in_few_bits(node: ir.Node) -> bool:
    """Whether a node computes in 16 bits, or reads what was quantized."""
    half_formats = {ir.DataType[half.onnx] for half in HALF_FORMATS}
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    return any(value.dtype in half_formats or made_by(value, "DequantizeLinear") is not None for value in values)
