"""Operators that TensorRT lacks, or lacks in one of their forms, replaced by the definition that ONNX gives them.

Many ONNX operators are functions: their schema holds a body of simpler operators ("Operators", onnx.ai; columns
"Function"). Its parser says which of them TensorRT imports (``supports_operator``, TensorRT-RTX 1.7); ONNX's node
tests show which forms of the others it refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of
from trtpipe.passes.infer_types import InferTypes, schema_of
from trtpipe.passes.operators import is_standard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


#: Where functions made here live until they are inlined.
_DOMAIN = "trtpipe.expanded"
#: Most levels of functions that call functions; ONNX's own need fewer.
_MOST_ROUNDS = 4


def _several_outputs(node: ir.Node) -> bool:
    return len(_given(node.outputs)) > 1


def _attention_of_many_parts(node: ir.Node) -> bool:
    """TensorRT's attention has one output, no soft cap, no mask beside the causal one, no cache, heads of one size."""
    if _several_outputs(node) or len(_given(node.inputs[4:])):
        return True
    if node.attributes.get_float("softcap", 0.0) or "softmax_precision" in node.attributes:
        return True
    if len(node.inputs) > 3 and node.inputs[3] is not None and node.attributes.get_int("is_causal", 0) != 0:
        return True
    key, value = (None if given is None else given.shape for given in node.inputs[1:3])
    return key is not None and value is not None and list(key) != list(value)


_EXPANDED = frozenset(
    {
        "AffineGrid", "CausalConvWithState", "Celu", "CenterCropPad", "LinearAttention", "MeanVarianceNormalization",
        "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", "SwiGLU",
    }
)  # fmt: skip
#: operator -> when it is expanded
_EXPANDED_IF: dict[str, Callable[[ir.Node], bool]] = {
    "Attention": _attention_of_many_parts,
    "LayerNormalization": _several_outputs,
}


class ExpandFunctions(GraphPass):
    """Replace the operators above by the bodies in their schemas.

    1. The body is ONNX's newest that still holds at the model's opset.
    2. A body may hold further such operators; they are expanded too.
    3. An operator without a usable body stays: the builder then says what it misses.
    """

    name = "expand_functions"

    def call(self, model: ir.Model) -> PassResult:
        """Expand, in the main graph and in bodies."""
        modified = False
        fresh = FreshNames(model)
        for _ in range(_MOST_ROUNDS):
            calls = [node for graph in graphs_of(model) for node in graph if _wanted(node)]
            made = [_make_call(model, node, index, fresh) for index, node in enumerate(calls)]
            if not any(made):
                break
            common.InlinePass(criteria=lambda function: function.domain == _DOMAIN)(model)
            InferTypes().call(model)
            modified = True
        return PassResult(self.name, modified)


def _wanted(node: ir.Node) -> bool:
    condition = _EXPANDED_IF.get(node.op_type)
    return is_standard(node) and (node.op_type in _EXPANDED or (condition is not None and condition(node)))


def _make_call(model: ir.Model, node: ir.Node, index: int, fresh: FreshNames) -> bool:
    """Turn ``node`` into a call of a local function with its body; whether there is a body to be had."""
    opset = model.graph.opset_imports
    schema = schema_of(node, opset)
    body = None if schema is None else _body(node, schema, opset.get("", 0))
    if schema is None or body is None:
        return False
    for output in node.outputs:
        output.name = output.name or fresh(f"{node.op_type}_unused")
    function = ir.serde.deserialize_function(body)
    function.domain, function.name = _DOMAIN, f"{node.op_type}_{index}"
    del function.outputs[len(node.outputs) :]
    function.opset_imports.clear()
    function.opset_imports.update(opset)
    for name, attribute in schema.attributes.items():
        if name not in node.attributes and attribute.default_value.type:
            node.attributes[name] = ir.serde.deserialize_attribute(attribute.default_value)
    model.functions[function.identifier()] = function
    opset[_DOMAIN] = 1
    node.domain, node.op_type = function.domain, function.name
    return True


def _body(node: ir.Node, schema: Any, opset: int) -> onnx.FunctionProto | None:
    """The newest body that means the same at ``opset``."""
    versions = schema.function_opset_versions or schema.context_dependent_function_opset_versions
    for version in sorted(versions, reverse=True):
        if version > opset:
            continue
        body = onnx.FunctionProto()
        if schema.has_function:
            body.ParseFromString(schema.get_function_with_opset_version(version))
        else:
            types = [_type(value) for value in node.inputs]
            serialized = ir.serde.serialize_node(node).SerializeToString()
            body.ParseFromString(schema.get_context_dependent_function_with_opset_version(version, serialized, types))
        if body.node and all(holds(inner, version, opset) for inner in _nodes(body.node)):
            _complete(body)
            return body
    return None


def _complete(body: onnx.FunctionProto) -> None:
    """Define the optional outputs that this body leaves out, because the node does; the constants are never read."""
    produced = {name for node in body.node for name in node.output}
    for name in body.output:
        if name not in produced:
            body.node.append(onnx.helper.make_node("Constant", [], [name], value_float=0.0))


def _type(value: ir.Value | None) -> bytes:
    if value is None or value.dtype is None:
        return b""
    dims = None if value.shape is None else [dim if isinstance(dim, int) else None for dim in value.shape]
    return bytes(onnx.helper.make_tensor_type_proto(int(value.dtype), dims).SerializeToString())


def holds(node: onnx.NodeProto, written: int, opset: int) -> bool:
    """Whether a node written for opset ``written`` means the same at ``opset``.

    Most new versions of an operator only admit more types, or have one more option. Where an attribute that the node
    has became an input, or the other way round, the body of that opset is of no use at this one.
    """
    try:
        old, new = (onnx.defs.get_schema(node.op_type, version, node.domain) for version in (written, opset))
    except onnx.defs.SchemaError:
        return False
    count = len(node.input)
    before, after = ([parameter.name for parameter in schema.inputs][:count] for schema in (old, new))
    given = {attribute.name for attribute in node.attribute}
    return (
        before == after
        and new.min_input <= count
        and given <= new.attributes.keys()
        and not any(attribute.required for name, attribute in new.attributes.items() if name not in given)
    )


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g.node)


def _given(values: Iterable[ir.Value | None]) -> list[ir.Value]:
    """The values that are there and used: optional outputs may be left unnamed."""
    return [value for value in values if value is not None and value.name]
