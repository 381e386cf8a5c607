"""Operators that compute on quantized tensors (ONNX's QOperator form), written as Q/DQ pairs around float operators.

Sources: the definitions of QLinearConv, QLinearMatMul and the like in onnx/docs/Operators.md and
onnxruntime/docs/ContribOperators.md. The result is rounded once, as these operators round it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import add_constant, array_of, drop_unused_constants
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of, node_label

if TYPE_CHECKING:
    from collections.abc import Sequence

_MICROSOFT = "com.microsoft"
_OWN = ("", "ai.onnx")
_Attributes: TypeAlias = "dict[str, ir.Attr]"
#: The axis along which the scales of an operand differ, if there are several.
_Axis: TypeAlias = "Callable[[ir.Node], int]"


def _first(node: ir.Node) -> int:
    return 0


def _last(node: ir.Node) -> int:
    return -1


def _columns(node: ir.Node) -> int:
    transposed = node.attributes.get("transB")
    return 0 if transposed is not None and transposed.as_int() else 1


@dataclass(frozen=True)
class _Form:
    """How an operator takes its operands.

    Attributes:
        op: the float operator.
        operands: where each quantized operand stands; its scale and its zero point follow.
        result: where the scale of the result stands, and its zero point behind it.
        plain: operands before the quantized ones that are passed on as they are.
        axis: of the scales of the last operand.
        bias: where an int32 bias stands, in units of the product of the operands' scales.
        dropped: attributes that the float operator does not have.
    """

    op: str
    operands: tuple[int, ...]
    result: int
    plain: tuple[int, ...] = ()
    axis: _Axis = _last
    bias: int | None = None
    dropped: tuple[str, ...] = ()


_UNARY = (0,)
_FORMS: dict[tuple[str, str], _Form] = {
    ("", "QLinearConv"): _Form("Conv", (0, 3), 6, axis=_first, bias=8),
    ("", "QLinearMatMul"): _Form("MatMul", (0, 3), 6),
    (_MICROSOFT, "QLinearConv"): _Form("Conv", (0, 3), 6, axis=_first, bias=8, dropped=("channels_last",)),
    (_MICROSOFT, "QLinearAdd"): _Form("Add", (0, 3), 6),
    (_MICROSOFT, "QLinearMul"): _Form("Mul", (0, 3), 6),
    (_MICROSOFT, "QLinearWhere"): _Form("Where", (1, 4), 7, plain=(0,)),
    (_MICROSOFT, "QLinearLeakyRelu"): _Form("LeakyRelu", _UNARY, 3),
    (_MICROSOFT, "QLinearSigmoid"): _Form("Sigmoid", _UNARY, 3),
    (_MICROSOFT, "QLinearSoftmax"): _Form("Softmax", _UNARY, 3, dropped=("opset",)),
    (_MICROSOFT, "QLinearReduceMean"): _Form("ReduceMean", _UNARY, 3),
    (_MICROSOFT, "QLinearAveragePool"): _Form("AveragePool", _UNARY, 3, dropped=("channels_last",)),
    (_MICROSOFT, "QLinearGlobalAveragePool"): _Form("GlobalAveragePool", _UNARY, 3, dropped=("channels_last",)),
    (_MICROSOFT, "QGemm"): _Form("Gemm", (0, 3), 7, axis=_columns, bias=6),
}


class SpreadQOperators(GraphPass):
    """Write operators on quantized tensors as DequantizeLinear, the float operator, QuantizeLinear.

    Left as they are: operators that are not in the table, and those in a layout that ONNX's own do not have.
    """

    name = "spread_qoperators"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite all graphs."""
        fresh = FreshNames(model)
        modified = False
        for node in [each for graph in graphs_of(model) for each in graph]:
            domain = "" if node.domain in _OWN else node.domain
            form = _FORMS.get((domain, node.op_type))
            if form is not None and not _channels_last(node):
                modified |= _spread(node, form, fresh)
            elif (domain, node.op_type) == (_MICROSOFT, "QLinearConcat"):
                modified |= _spread_concat(node, fresh)
        if modified:
            drop_unused_constants(model)
        return PassResult(self.name, modified)


def _channels_last(node: ir.Node) -> bool:
    attribute = node.attributes.get("channels_last")
    return attribute is not None and bool(attribute.as_int())


def _spread(node: ir.Node, form: _Form, fresh: FreshNames) -> bool:
    inputs = list(node.inputs) + [None] * 9
    scales = [inputs[index + 1] for index in form.operands]
    bias = None if form.bias is None else inputs[form.bias]
    addend = None if bias is None else _bias(node, bias, scales, fresh)
    if bias is not None and addend is None:
        return False
    operands: list[ir.Value | None] = [inputs[index] for index in form.plain]
    for index in form.operands:
        axis = form.axis(node) if index == form.operands[-1] else _last(node)
        operands.append(_dequantized(node, inputs[index : index + 3], axis, fresh))
    attributes = [each for name, each in node.attributes.items() if name not in form.dropped]
    _write(node, form.op, [*operands, *([] if addend is None else [addend])], attributes,
           inputs[form.result : form.result + 2], fresh)  # fmt: skip
    return True


def _spread_concat(node: ir.Node, fresh: FreshNames) -> bool:
    """Scale and zero point of the result come first, then three for each operand."""
    result, rest = list(node.inputs[:2]), list(node.inputs[2:])
    operands: list[ir.Value | None] = [
        _dequantized(node, rest[index : index + 3], _last(node), fresh) for index in range(0, len(rest), 3)
    ]
    _write(node, "Concat", operands, list(node.attributes.values()), result, fresh)
    return True


def _bias(node: ir.Node, bias: ir.Value, scales: Sequence[ir.Value | None], fresh: FreshNames) -> ir.Value | None:
    """The bias in float32; ``None`` where it is no constant."""
    steps = [array_of(scale) for scale in scales]
    whole = array_of(bias)
    if whole is None or steps[0] is None or steps[1] is None:
        return None
    assert isinstance(node.graph, ir.Graph)
    values = whole.astype(np.float32) * (steps[0].reshape(-1) * steps[1].reshape(-1))
    return add_constant(node.graph, fresh, f"{bias.name}_dequantized", values.astype(np.float32))


def _dequantized(node: ir.Node, given: Sequence[ir.Value | None], axis: int, fresh: FreshNames) -> ir.Value:
    value = given[0]
    made = ir.Node("", "DequantizeLinear", list(given), [], name=fresh(f"{value.name if value else ''}_dequantize"))
    scale = array_of(given[1])
    if scale is not None and scale.size > 1:
        made.attributes["axis"] = ir.AttrInt64("axis", axis)
    result = made.outputs[0]
    result.name, result.dtype = fresh(f"{value.name if value else ''}_dequantized"), ir.DataType.FLOAT
    assert isinstance(node.graph, ir.Graph)
    node.graph.insert_before(node, [made])
    return result


def _write(
    node: ir.Node,
    op: str,
    operands: Sequence[ir.Value | None],
    attributes: Sequence[ir.Attr],
    result: Sequence[ir.Value | None],
    fresh: FreshNames,
) -> None:
    """Put the float operator, and what quantizes its result if anything does, in the place of ``node``."""
    label, graph, old = node_label(node), node.graph, node.outputs[0]
    assert isinstance(graph, ir.Graph)
    made = ir.Node("", op, operands, attributes, name=fresh(f"{label}_float"))
    last = made
    nodes = [made]
    if result and result[0] is not None:
        made.outputs[0].name, made.outputs[0].dtype = fresh(f"{old.name}_float"), ir.DataType.FLOAT
        last = ir.Node("", "QuantizeLinear", [made.outputs[0], *result], [], name=fresh(f"{label}_quantize"))
        nodes.append(last)
    new, name = last.outputs[0], old.name
    new.type, new.shape = old.type, old.shape
    graph.insert_before(node, nodes)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    old.name, new.name = None, name
