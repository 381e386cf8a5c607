"""Is every node an operator somebody knows, with the inputs and attributes that operator cannot do without?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.preflight.budgets import Refused, Unknown
from trtpipe.preflight.tensors import ELEMENT_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from trtpipe.preflight.model import Attribute, Graph, Model, Node

#: Operators outside ONNX's own schemas that TensorRT or onnxruntime bring along.
_VENDORS = frozenset({"com.microsoft", "trt", "trt.plugins", "ai.onnx.preview.training"})
_REPLACE = "replace the operator, or export the model without it"
_CORRECT = "correct the node named above"
#: AttributeProto.AttributeType -> number of the field that holds such a value.
_FIELDS = {1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9, 9: 10, 10: 11, 11: 22, 12: 23, 13: 14, 14: 15}
#: AttributeProto.AttributeType by number, as schemas name them.
_KINDS = ("FLOAT", "INT", "STRING", "TENSOR", "GRAPH", "FLOATS", "INTS", "STRINGS", "TENSORS", "GRAPHS")
_TYPES = dict(enumerate((*_KINDS, "SPARSE_TENSOR", "SPARSE_TENSORS", "TYPE_PROTO", "TYPE_PROTOS"), start=1))
#: Attributes of ONNX's operators that name an element type; 0 leaves the choice to the operator.
_ELEMENT_TYPES = frozenset({"to", "dtype", "output_dtype", "output_datatype"})
#: Numbers and text that are zero or empty may be left out by whoever writes the file; these may not.
_MUST_BE_HELD = frozenset({4, 5, 11, 13})


class Operators:
    """Checks the nodes of one model; remembers the schemas it has seen."""

    def __init__(self, model: Model) -> None:
        self._local = {function.key for function in model.functions}
        self._schemas: dict[tuple[str, str, int], onnx.defs.OpSchema | None] = {}

    def check(self, graph: Graph, opsets: Mapping[str, int]) -> None:
        """Check all nodes of ``graph`` and of its bodies.

        Raises:
            Refused: an operator nobody knows; inputs, outputs or attributes that are missing, too many, or of the
                wrong kind.
        """
        for node in graph.nodes:
            for attribute in node.attributes:
                _check_attribute(node, attribute)
            self._check_node(node, opsets)
            for body in node.bodies:
                self.check(body, opsets)

    def _check_node(self, node: Node, opsets: Mapping[str, int]) -> None:
        names = [attribute.name for attribute in node.attributes]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise Refused(f"{node.label} has the attribute {twice!r} twice", _CORRECT)
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain in _VENDORS or (node.domain, node.op_type, node.overload) in self._local:
            return
        opset = opsets.get(domain, 1)
        schema = self._schema(node.op_type, domain, opset)
        if schema is None:
            full = f"{domain}::{node.op_type}" if domain else node.op_type
            raise Unknown(f"{node.label} uses the unknown operator {full} (opset {opset})", _REPLACE)
        _check_sides(node, schema)
        _check_attributes(node, schema)

    def _schema(self, op_type: str, domain: str, opset: int) -> onnx.defs.OpSchema | None:
        import onnx

        key = (op_type, domain, opset)
        if key not in self._schemas:
            try:
                self._schemas[key] = onnx.defs.get_schema(op_type, min(max(opset, 0), 1 << 30), domain)
            except onnx.defs.SchemaError:
                self._schemas[key] = None
        return self._schemas[key]


def _check_sides(node: Node, schema: onnx.defs.OpSchema) -> None:
    import onnx

    sides = (
        ("inputs", node.inputs, schema.min_input, schema.max_input, schema.inputs),
        ("outputs", node.outputs, schema.min_output, schema.max_output, schema.outputs),
    )
    for side, names, least, most, formals in sides:
        if not least <= len(names) <= most:
            bound = str(least) if least == most else f"{least} to {most}" if most < 1 << 30 else f"{least} or more"
            raise Refused(f"{node.label} ({node.op_type}) has {len(names)} {side}, and needs {bound}", _CORRECT)
        for name, formal in zip(names, formals, strict=False):
            if not name and formal.option == onnx.defs.OpSchema.FormalParameterOption.Single:
                raise Refused(f"{node.label} ({node.op_type}) lacks its {side[:-1]} {formal.name!r}", _CORRECT)


def _check_attributes(node: Node, schema: onnx.defs.OpSchema) -> None:
    given = {attribute.name: attribute for attribute in node.attributes}
    for name, wanted in schema.attributes.items():
        if wanted.required and name not in given:
            raise Refused(f"{node.label} ({node.op_type}) lacks the attribute {name!r}", _CORRECT)
    for name, attribute in given.items():
        known = schema.attributes.get(name)
        kind = "" if known is None else str(known.type).rpartition(".")[2]
        if kind and attribute.type and kind != _TYPES.get(attribute.type):
            raise Refused(f"{node.label} ({node.op_type}): attribute {name!r} is of the wrong type", _CORRECT)
        named = kind == "INT" and name in _ELEMENT_TYPES and not attribute.reference
        if named and attribute.integer not in ELEMENT_TYPES | {0}:
            raise Refused(f"{node.label} ({node.op_type}): {name!r} is {attribute.integer}, which is no type", _CORRECT)


def _check_attribute(node: Node, attribute: Attribute) -> None:
    """An attribute holds values of the one type it declares."""
    where = f"{node.label}: attribute {attribute.name!r}"
    if attribute.type and attribute.type not in _FIELDS:
        raise Refused(f"{where} is of type {attribute.type}, which nobody knows", _CORRECT)
    if attribute.reference:
        return
    field = _FIELDS.get(attribute.type)
    other = attribute.held - {field}
    if attribute.type and other:
        raise Refused(f"{where} holds other values than its type says", _CORRECT)
    if attribute.type in _MUST_BE_HELD and not attribute.held:
        raise Refused(f"{where} holds no value", _CORRECT)
