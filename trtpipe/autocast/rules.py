"""Which nodes are too sensitive for 16 bits, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from trtpipe.autocast.precision_sensitive_chains import precision_sensitive_chains
from trtpipe.config.formats import FP16, Format
from trtpipe.passes.decisions import KEPT
from trtpipe.passes.float32_forms import refused_in
from trtpipe.passes.graph_pass import node_label
from trtpipe.passes.infer_types import formal, schema_of
from trtpipe.passes.node_names import pattern_of
from trtpipe.passes.operators import CONTAINERS, PURE_MOVES, computed_floats, is_standard, origin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from trtpipe.autocast.range_guard import RangeGuard

#: sums and powers whose results leave float16's range or precision although their inputs fit
_GROWS = frozenset({"Pow", "Exp", "Reciprocal", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceProd", "CumSum"})
#: sums and powers whose intermediate values do so, but whose results are of their inputs' size
_SENSITIVE = _GROWS | {
    "Log", "Sqrt", "ReduceMean", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "InstanceNormalization",
    "LpNormalization",
}  # fmt: skip
#: sums whose intermediate values no measurement shows
_HIDDEN = frozenset({"ReduceProd", "ReduceLogSum", "ReduceLogSumExp", "InstanceNormalization", "LpNormalization"})
#: coordinates: a rounding step of 16 bits moves results visibly; and operators whose output type is an attribute
_EXACT = frozenset(
    {
        "NonMaxSuppression", "RoiAlign", "GridSample", "AffineGrid", "Range", "DynamicQuantizeLinear", "Cast",
        "CastLike", "Constant", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform", "RandomNormalLike",
        "RandomUniformLike", "Multinomial", "Bernoulli", "HannWindow", "HammingWindow", "BlackmanWindow",
        "MelWeightMatrix",
    }
)  # fmt: skip
#: data-movement operators, and those that choose among values
_DATA_MOVEMENT = PURE_MOVES | {"Concat", "Pad", "Where", "Max", "Min", "Clip"}
#: operators whose result is as large, or as small, as what goes in
_RANGE_PRESERVING = _DATA_MOVEMENT | {
    "Add", "Sub", "Mul", "Div", "Sum", "Mean", "Neg", "Abs", "Relu", "LeakyRelu", "PRelu", "ReduceMean", "ReduceMax",
    "ReduceMin",
}  # fmt: skip
#: operators whose first input is updated in place: it must reach them as the network gets it
_UNTOUCHED = frozenset({"TensorScatter"})
_QUANTIZES = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: Relative error from which on a constant counts as another one.
_LOST_DIGITS = 2.0**-8
#: operators that arithmetic on shapes, indices and masks consists of
_ARITHMETIC = _RANGE_PRESERVING | _SENSITIVE | {
    "Floor", "Ceil", "Round", "Mod", "Sign", "Sin", "Cos", "Tan", "Sigmoid", "Trilu", "ScatterND", "ScatterElements",
}  # fmt: skip


#: operators that do little for each element they touch, so that casting around them costs as much as they do
_CHEAP = PURE_MOVES | {
    "Add", "Sub", "Mul", "Div", "Neg", "Abs", "Relu", "LeakyRelu", "Clip", "Max", "Min", "Where", "Concat", "Sqrt",
    "Reciprocal", "Sigmoid", "Tanh", "Exp", "Log", "Erf", "Sum", "Pad", "Equal", "Greater", "Less",
}  # fmt: skip


class HalfRules:
    """Decides about the nodes of one model, in topological order, because what came before decides too.

    Two kinds of values are followed through the graph. Those that come from integers, by arithmetic alone, are shapes,
    indices or masks. Those that 16 bits cannot hold are results of constants that do not fit and, where nothing was
    measured, of sums and powers: their readers are kept in float32 too, up to the operator that brings them back (a
    division, a softmax, a square root).

    Args:
        model: the graph whose nodes are decided about.
        guard: what was measured on real data; ``None`` leaves the fixed rules.
    """

    def __init__(self, half: Format, keep: Sequence[str], model: ir.Model, guard: RangeGuard | None = None) -> None:
        self._half = half
        self._keep = keep
        self._guard = guard
        self._opset_imports = model.graph.opset_imports
        self._chains = precision_sensitive_chains(model, half, guard)
        self._from_integers: set[ir.Value] = set()
        self._out_of_range: set[ir.Value] = set()
        self._inverse: set[ir.Value] = set()
        self._kept: set[ir.Node] = set()

    def kept(self, node: ir.Node) -> str | None:
        """Why ``node`` is kept in float32, or ``None``."""
        reason = self._reason(node)
        if reason is not None:
            self._kept.add(node)
        return reason

    def _reason(self, node: ir.Node) -> str | None:
        guard = self._guard
        measured = guard is not None and node.op_type not in _HIDDEN and guard.knows(node)
        constant = self._bad_constant(node)
        out_of_range = any(value in self._out_of_range for value in node.inputs)
        if self._spoils(node, constant is not None, measured):
            self._out_of_range.update(node.outputs)
        if node.op_type == "Reciprocal":
            self._inverse.update(node.outputs)
        if self._works_on_integers(node):
            self._from_integers.update(node.outputs)
            return "arithmetic on shapes, indices or masks, exact in float32 only"
        reason = self._by_operator(node) or self._chains.get(node)
        if reason is None and (guard is None or not measured):
            grows = node.op_type in _SENSITIVE or _is_square(node)
            reason = "intermediate sums or powers leave 16 bits" if grows else None
        elif reason is None and guard is not None:
            reason = guard.objection(node) or (guard.exponent(node) if self._reads_float32(node) else None)
        return reason or constant or ("reads a value that 16 bits may not hold" if out_of_range else None)

    def _reads_float32(self, node: ir.Node) -> bool:
        """Whether what ``node`` reads first is float32 so far. What was stored in 16 bits is as wrong as it will be."""
        value = node.inputs[0] if node.inputs else None
        maker = None if value is None else origin(value).producer()
        return maker is None or maker in self._kept

    def _by_operator(self, node: ir.Node) -> str | None:
        if node.op_type in CONTAINERS:
            return "control flow: its body is lowered inside"
        if node.op_type in _EXACT:
            return "exact values: coordinates or type conversion"
        if node.op_type in _UNTOUCHED and node.inputs[0] is not None and node.inputs[0].is_graph_input():
            return "TensorRT takes its first input from the network's inputs only: no cast may come between"
        if node.op_type in _QUANTIZES and not _scale_fits(node, self._half):
            return f"its scale is not a {self._half.storage} number"
        if node.op_type == "DequantizeLinear" and _dequantized_peak(node) > self._half.largest:
            return f"its largest value is beyond {self._half.storage}"
        if (pattern := pattern_of(node_label(node), self._keep)) is not None:
            return f"{KEPT} {pattern!r}"
        schema = schema_of(node, self._opset_imports)
        if schema is None:
            return "operator without a public schema"
        if not is_standard(node):
            return "operator outside ONNX's main set"
        if node.op_type == "Tan":
            return "near its poles it changes faster than 16 bits can follow"
        if any(value is not None and value.dtype is None for value in (*node.inputs, *node.outputs)):
            return "element types unknown"
        if (reason := refused_in(node, self._half)) is not None:
            return reason
        return None if _takes_half(node, schema, self._half) else f"the operator takes no {self._half.storage}"

    def _spoils(self, node: ir.Node, bad_constant: bool, measured: bool) -> bool:
        """Whether the results of ``node`` may be beyond 16 bits, or vanish in them."""
        out_of_range = [value in self._out_of_range for value in node.inputs]
        if node.op_type == "Div":  # by a value of the same kind, or by a constant as large: brought back
            return out_of_range[0] and not out_of_range[1] and not bad_constant
        if node.op_type == "Mul" and any(value in self._inverse for value in node.inputs):
            return False
        grows = not measured and (node.op_type in _GROWS or _is_square(node))
        return bad_constant or grows or (node.op_type in _RANGE_PRESERVING and any(out_of_range))

    def _works_on_integers(self, node: ir.Node) -> bool:
        """Whether every non-constant float input comes from an integer by way of casts and arithmetic."""
        if node.op_type == "Cast":
            source = node.inputs[0]
            return source is not None and source.dtype is not None and source.dtype.is_integer()
        if node.op_type not in _ARITHMETIC and not _is_outer_product(node):
            return False
        floats = computed_floats(node.inputs)
        return bool(floats) and all(value in self._from_integers for value in floats)

    def _bad_constant(self, node: ir.Node) -> str | None:
        half = self._half
        for value in node.inputs:
            if value is None or value.dtype != ir.DataType.FLOAT or value.const_value is None:
                continue
            array = value.const_value.numpy()
            peak = float(np.abs(array).max(where=np.isfinite(array), initial=0.0))  # infinities stay what they are
            if peak > half.largest:
                return f"constant {value.name!r} reaches {peak:.3g}, beyond {self._half.storage}"
            if not 0 < peak < half.normal:
                continue
            error = float(np.abs(array - array.astype(half.dtype).astype(np.float32)).max(initial=0.0))
            if error > _LOST_DIGITS * peak:
                becomes = "become 0" if error >= peak else f"be off by {error / peak:.0%}"
                return f"constant {value.name!r} ({peak:.3g}) would {becomes} in {self._half.storage}"
        return None


def lone_nodes(reasons: Mapping[ir.Node, str | None]) -> dict[ir.Node, str]:
    """Cheap nodes to be lowered whose float32 inputs all come from kept nodes, and whose readers are all kept.

    Args:
        reasons: node -> why it is kept; ``None`` if it is to be lowered.
    """
    found: dict[ir.Node, str] = {}
    for node in (node for node, reason in reasons.items() if reason is None):
        if node.op_type == "DequantizeLinear" and any(reasons.get(use.node) for use in node.outputs[0].uses()):
            found[node] = "belongs to a node in float32: a cast between them would part them"
        elif node.op_type in _CHEAP and _surrounded(node, reasons, found):
            found[node] = "between nodes in float32: two casts would cost more than it"
    return found


def _surrounded(node: ir.Node, reasons: Mapping[ir.Node, str | None], found: Mapping[ir.Node, str]) -> bool:
    makers = [value.producer() for value in computed_floats(node.inputs)]
    if not makers or not all(maker is not None and (reasons.get(maker) or maker in found) for maker in makers):
        return False
    readers = [use.node for value in node.outputs for use in value.uses()]
    public = any(value.is_graph_output() for value in node.outputs)
    return bool(readers) and not public and all(reasons.get(reader) for reader in readers)


def float_only(parameter: onnx.defs.OpSchema.FormalParameter | None) -> bool:
    """Whether a formal parameter accepts float32 and no 16-bit type (Resize's scales, for example)."""
    types = parameter.types if parameter is not None else set()
    return "tensor(float)" in types and f"tensor({FP16.storage})" not in types


def _takes_half(node: ir.Node, schema: onnx.defs.OpSchema, half: Format) -> bool:
    """Whether the schema lets every float32 output, and every float32 input of a free type, be 16 bits."""
    word = f"tensor({half.storage})"
    given, made = (
        [formal(parameters, index) for index, value in enumerate(values)
         if value is not None and value.dtype == ir.DataType.FLOAT]
        for parameters, values in ((schema.inputs, node.inputs), (schema.outputs, node.outputs))
    )  # fmt: skip
    free = [parameter for parameter in given if parameter is not None and not float_only(parameter)]
    return all(parameter is not None and word in parameter.types for parameter in (*made, *free))


def _is_square(node: ir.Node) -> bool:
    return node.op_type == "Mul" and node.inputs[0] is node.inputs[1]


def _is_outer_product(node: ir.Node) -> bool:
    """A MatMul that sums over nothing: how positions meet frequencies in rotary embeddings."""
    if node.op_type != "MatMul":
        return False
    constants = [None if value is None else value.const_value for value in node.inputs]
    return any(
        tensor is not None and len(tensor.shape) >= 2 and tensor.shape[-1 - side] == 1
        for side, tensor in enumerate(constants)
    )


def _dequantized_peak(node: ir.Node) -> float:
    """The largest value that an 8-bit DequantizeLinear can make; 0 where wider types leave it open."""
    value, scale = node.inputs[:2]
    if value is None or value.dtype is None or value.dtype.itemsize > 1 or scale is None or scale.const_value is None:
        return 0.0
    dtype = value.dtype.numpy()
    find = ml_dtypes.iinfo if value.dtype.is_integer() else ml_dtypes.finfo
    limits: Any = find(dtype)
    return float(limits.max) * float(np.abs(scale.const_value.numpy()).max(initial=0))


def _scale_fits(node: ir.Node, half: Format) -> bool:
    """Whether a quantizer's scale is a normal number of the type: rounding it would move every value."""
    scale = node.inputs[1]
    if scale is None or scale.const_value is None or scale.dtype != ir.DataType.FLOAT:
        return False
    array = scale.const_value.numpy()
    rounded = array.astype(half.dtype).astype(np.float32)
    return bool(np.array_equal(array, rounded) and (array >= half.normal).all())
