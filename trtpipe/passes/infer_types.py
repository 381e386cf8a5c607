"""Element types of all values, from the operators' own schemas.

Shape inference in native code can crash on hostile models and stops at operators it does not know. Precision lowering
needs types only, and ONNX's schemas say how an output's type follows from the inputs' types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from trtpipe.passes.graph_pass import GraphPass, PassResult, bodies_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: what schemas call a type -> the type
_FIXED = {f"tensor({dtype.name.lower()})": dtype for dtype in ir.DataType}
#: operators whose output type is an attribute: op -> (attribute, type where it is absent)
_BY_ATTRIBUTE: dict[str, tuple[str, ir.DataType]] = {
    "Cast": ("to", ir.DataType.UNDEFINED),
    "RandomNormal": ("dtype", ir.DataType.FLOAT),
    "RandomUniform": ("dtype", ir.DataType.FLOAT),
    "Multinomial": ("dtype", ir.DataType.INT32),
    "HannWindow": ("output_datatype", ir.DataType.FLOAT),
    "HammingWindow": ("output_datatype", ir.DataType.FLOAT),
    "BlackmanWindow": ("output_datatype", ir.DataType.FLOAT),
}
_CONSTANT_ATTRIBUTES: dict[str, ir.DataType] = {
    **dict.fromkeys(("value_float", "value_floats"), ir.DataType.FLOAT),
    **dict.fromkeys(("value_int", "value_ints"), ir.DataType.INT64),
    **dict.fromkeys(("value_string", "value_strings"), ir.DataType.STRING),
}
#: operators whose output has the type of one input, unless an attribute says otherwise
_LIKE_INPUT: dict[str, int] = {
    "CastLike": 1,
    "DequantizeLinear": 1,
    "RandomNormalLike": 0,
    "RandomUniformLike": 0,
    "EyeLike": 0,
    "Bernoulli": 0,
}


class InferTypes(GraphPass):
    """Give every value whose element type is unknown the type its producer's schema implies.

    1. Types already known are kept.
    2. An output bound to the same type variable as an input takes that input's type.
    3. Cast, Constant, ConstantOfShape, QuantizeLinear, If, Loop and their like follow their own rule.
    4. What remains unknown (operators without a schema) stays unknown.
    """

    name = "infer_types"

    def call(self, model: ir.Model) -> PassResult:
        """Fill in types in the order of computation."""
        return PassResult(self.name, modified=_infer_graph(model.graph, model.graph.opset_imports))


def schema_of(node: ir.Node | onnx.NodeProto, opset_imports: Mapping[str, int]) -> onnx.defs.OpSchema | None:
    """The schema of a node's operator at the model's opset, or ``None`` if ONNX has none."""
    version = opset_imports.get(node.domain)
    if version is None:
        return None
    try:
        return onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return None


def formal(
    parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int
) -> onnx.defs.OpSchema.FormalParameter | None:
    """The formal parameter behind the ``index``-th actual one; the last one repeats where it is variadic."""
    if index < len(parameters):
        return parameters[index]
    last = parameters[-1] if parameters else None
    return last if last is not None and last.option == onnx.defs.OpSchema.FormalParameterOption.Variadic else None


def _infer_graph(graph: ir.Graph, opset_imports: dict[str, int]) -> bool:
    """A body comes right before its node: it reads what was computed before, and If and Loop take its types."""
    modified = False
    for node in graph:
        for body in bodies_of(node):
            modified |= _infer_graph(body, opset_imports)
        modified |= _infer_node(node, opset_imports)
    return modified


def _infer_node(node: ir.Node, opset_imports: dict[str, int]) -> bool:
    if all(value.dtype is not None for value in node.outputs):
        return False
    types = _output_types(node, opset_imports)
    for value, dtype in zip(node.outputs, types, strict=False):
        if value.dtype is None and dtype is not None and dtype != ir.DataType.UNDEFINED:
            value.dtype = dtype
    return True


def _output_types(node: ir.Node, opset_imports: dict[str, int]) -> list[ir.DataType | None]:
    count = len(node.outputs)
    own = _own_rule(node)
    if own is not None:
        return own
    schema = schema_of(node, opset_imports)
    if schema is None:
        return [None] * count
    bound: dict[str, ir.DataType] = {}
    for index, value in enumerate(node.inputs):
        parameter = formal(schema.inputs, index)
        if value is not None and parameter is not None and value.dtype is not None:
            bound.setdefault(parameter.type_str, value.dtype)
    found: list[ir.DataType | None] = []
    for index in range(count):
        parameter = formal(schema.outputs, index)
        found.append(None if parameter is None else bound.get(parameter.type_str, _single_type(schema, parameter)))
    return found


def _single_type(schema: onnx.defs.OpSchema, parameter: onnx.defs.OpSchema.FormalParameter) -> ir.DataType | None:
    """The type of an output whose variable no input binds, where the schema allows just one."""
    if parameter.type_str in _FIXED:
        return _FIXED[parameter.type_str]
    for constraint in schema.type_constraints:
        if constraint.type_param_str == parameter.type_str and len(constraint.allowed_type_strs) == 1:
            return _FIXED.get(constraint.allowed_type_strs[0])
    return None


def _own_rule(node: ir.Node) -> list[ir.DataType | None] | None:
    """The output types of operators whose rule the schema does not express; ``None`` for all others."""
    op, given = node.op_type, node.attributes
    if op in _BY_ATTRIBUTE:
        return [ir.DataType(given.get_int(*_BY_ATTRIBUTE[op]))]
    if op in _LIKE_INPUT:
        if chosen := given.get_int("dtype", 0) or given.get_int("output_dtype", 0):
            return [ir.DataType(chosen)]
        source = node.inputs[_LIKE_INPUT[op]] if len(node.inputs) > _LIKE_INPUT[op] else None
        return [source.dtype if source is not None else None]
    if op == "Constant":
        return [_constant_type(node)]
    if op == "ConstantOfShape":
        return [given["value"].as_tensor().dtype if "value" in given else ir.DataType.FLOAT]
    if op == "QuantizeLinear":
        zero_point = node.inputs[2] if len(node.inputs) > 2 else None
        chosen = given.get_int("output_dtype", 0) or ir.DataType.UINT8
        return [zero_point.dtype if zero_point is not None else ir.DataType(chosen)]
    if op == "If":
        return [value.dtype for value in node.attributes["then_branch"].as_graph().outputs]
    if op in ("Loop", "Scan"):
        outputs = [value.dtype for value in node.attributes["body"].as_graph().outputs]
        return list(outputs[1:] if op == "Loop" else outputs)  # a loop body's first output is its condition
    return None


def _constant_type(node: ir.Node) -> ir.DataType | None:
    """The type of a Constant, which has exactly one of several attributes."""
    for name, attribute in node.attributes.items():
        if name == "value":
            return attribute.as_tensor().dtype
        if name in _CONSTANT_ATTRIBUTES:
            return _CONSTANT_ATTRIBUTES[name]
    return None
