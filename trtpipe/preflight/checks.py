"""Checks on a model before any native library opens it: budgets, contradictions, cycles, unknown operators.

Measured without them: a file of 1.9 kB whose functions call each other twice hangs the ONNX checker, onnxruntime and
TensorRT-RTX; a function that calls itself kills TensorRT-RTX; a chain of 200,000 nodes takes it 20 seconds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.errors import InputError
from trtpipe.preflight.model import Budgets, Malformed, Refused, TooLarge, UnknownOperator
from trtpipe.preflight.ordering import sorted_order
from trtpipe.preflight.reading import ELEMENT_TYPES, Reader
from trtpipe.preflight.types import ElementTypes
from trtpipe.preflight.versions import OPSETS_SINCE, assumed_opset
from trtpipe.preflight.wire import FileBytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx

    from trtpipe.preflight.model import Attribute, External, Function, Graph, Model, Node

_DEFAULT = Budgets()
#: Domains of operators outside ONNX's own schemas that TensorRT or onnxruntime provide.
_VENDORS = frozenset({"com.microsoft", "trt", "trt.plugins", "ai.onnx.preview.training"})
#: onnxruntime's operators that its optimizer writes into ONNX's own domain.
STRAY = frozenset({"SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"})
_REPLACE = "replace the operator, or export the model without it"
_CORRECT = "correct the node named above"
#: AttributeProto.AttributeType -> number of the field that holds such a value.
_FIELDS = {1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9, 9: 10, 10: 11, 11: 22, 12: 23, 13: 14, 14: 15}
#: AttributeProto.AttributeType by number, as schemas name them.
_KINDS = ("FLOAT", "INT", "STRING", "TENSOR", "GRAPH", "FLOATS", "INTS", "STRINGS", "TENSORS", "GRAPHS")
_TYPES = dict(enumerate((*_KINDS, "SPARSE_TENSOR", "SPARSE_TENSORS", "TYPE_PROTO", "TYPE_PROTOS"), start=1))
#: Attributes of ONNX's operators that name an element type; 0 leaves the choice to the operator.
_ELEMENT_TYPES = frozenset({"to", "dtype", "output_dtype", "output_datatype"})
#: Writers may omit numbers and strings that are zero or empty; these types they may not.
_MUST_BE_HELD = frozenset({4, 5, 11, 13})
_EXPAND = "expand the functions, or export the model without them"


@dataclass(frozen=True)
class Cleared:
    """A model that passed.

    Attributes:
        nodes: with every function call expanded.
        external: the tensors whose values are in other files.
    """

    nodes: int
    external: tuple[External, ...]


def check_model(
    path: Path, handle: int, *, name: Path | None = None, budgets: Budgets = _DEFAULT, repairable: bool = False
) -> Cleared:
    """Check the ``.onnx`` file that is open as ``handle``; values are neither read nor kept.

    Args:
        path: the file that messages name, unless ``name`` is given.
        repairable: whether what only has to be put in order may pass, because whoever reads the model next does that
            (``exporter/repairs.py``): nodes in any order, one thing listed twice, an opset that is not stated.

    Raises:
        InputError: the model is beyond a budget, malformed, contradicts itself, or uses unknown operators.
    """
    size = os.fstat(handle).st_size
    try:
        if size > budgets.file_bytes:
            raise TooLarge(f"it has {size} bytes; protobuf holds less than 2 GiB", "save it with external data")
        model = Reader(budgets).model((FileBytes(handle), 0, size))
        nodes = check_functions(model, budgets)
        if repairable:
            _put_in_order(model)
        _check_meaning(model)
    except Refused as refusal:
        raise InputError(f"{name or path}: {refusal.lead}{refusal.message}", refusal.remedy) from refusal
    return Cleared(nodes, tuple(model.external))


def _check_meaning(model: Model) -> None:
    if model.graph is None or not (model.graph.nodes or model.graph.outputs):
        raise Malformed("it holds no graph")
    if not model.graph.outputs:
        raise Refused("it has no outputs", "name what it computes as outputs of the graph")
    if not model.opsets and model.ir_version >= OPSETS_SINCE:
        raise Malformed("it states no opset")
    operators, scopes = Operators(model), Scopes()
    operators.check(model.graph, model.opsets)
    scopes.check(model.graph)
    ElementTypes(lambda node: operators.schema(node, model.opsets)).check(model.graph)
    for function in model.functions:
        operators.check(function.graph, {**model.opsets, **function.opsets})
        scopes.check(function.graph, f"function {function.name!r}")


def _put_in_order(model: Model) -> None:
    """Read a model as its repair will leave it.

    Raises:
        Refused: what it means is in doubt.
    """
    if model.graph is None:
        return
    if "" not in model.opsets and (model.opsets or model.ir_version >= OPSETS_SINCE):
        model.opsets[""] = assumed_opset(model.ir_version, {node.op_type for node in _all_nodes(model.graph)})
    _order(model.graph)
    for function in model.functions:
        _order(function.graph)


def _order(graph: Graph, around: tuple[set[str], ...] = ()) -> set[str]:
    """Sort the nodes of a graph and of its bodies, and leave out what is listed twice; the names it reads.

    Args:
        around: the names of each graph around it.

    Raises:
        Refused: the nodes form a cycle.
    """
    own = {value.name for value in (*graph.inputs, *graph.constants)}.union(*(node.outputs for node in graph.nodes))
    reads = [set(node.inputs).union(*(_order(body, (*around, own)) for body in node.bodies)) for node in graph.nodes]
    order = sorted_order(reads, [node.outputs for node in graph.nodes], around)
    if order is None:
        raise Refused("its nodes form a cycle", _CORRECT)
    graph.nodes[:] = [graph.nodes[index] for index in order]
    for values in (graph.inputs, graph.outputs):
        values[:] = {(value.name, value.kind, *value.dims): value for value in values}.values()
    graph.constants[:] = {value.name: value for value in graph.constants}.values()  # whoever has the values compares
    return set().union(*reads, (value.name for value in graph.outputs)) - own


class Operators:
    """Is every node a known operator with the inputs and attributes it requires? Schemas are looked up once."""

    def __init__(self, model: Model) -> None:
        self._local = {function.key for function in model.functions}
        self._schemas: dict[tuple[str, str, int], onnx.defs.OpSchema | None] = {}

    def check(self, graph: Graph, opsets: Mapping[str, int]) -> None:
        """Check all nodes of ``graph`` and of its bodies.

        Raises:
            Refused: an unknown operator; inputs, outputs or attributes that are missing, too many, or of the wrong
                kind.
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
        if self._is_foreign(node):
            return
        schema = self.schema(node, opsets)
        if schema is None and (_names_plugin(node, domain, names) or (domain == "" and node.op_type in STRAY)):
            return
        if schema is None:
            opset = opsets.get(domain, 1)
            full = f"{domain}::{node.op_type}" if domain else node.op_type
            raise UnknownOperator(f"{node.label} uses the unknown operator {full} (opset {opset})", _REPLACE)
        _check_sides(node, schema)
        _check_attributes(node, schema)

    def _is_foreign(self, node: Node) -> bool:
        """Whether ONNX has no say in it: a vendor's operator, or a function of the model."""
        return node.domain in _VENDORS or (node.domain, node.op_type, node.overload) in self._local

    def schema(self, node: Node, opsets: Mapping[str, int]) -> onnx.defs.OpSchema | None:
        """The schema of a node's operator; ``None`` where ONNX has none."""
        import onnx

        domain = "" if node.domain == "ai.onnx" else node.domain
        key = (node.op_type, domain, opsets.get(domain, 1))
        if self._is_foreign(node):
            return None
        if key not in self._schemas:
            try:
                self._schemas[key] = onnx.defs.get_schema(node.op_type, min(max(key[2], 0), 1 << 30), domain)
            except onnx.defs.SchemaError:
                self._schemas[key] = None
        return self._schemas[key]


def _names_plugin(node: Node, domain: str, attributes: Sequence[str]) -> bool:
    """Whether an operator that nobody knows may be a TensorRT plug-in, whose domain is of no account: it has a name of
    its own in a domain of its own, or is named or described as TensorRT's plug-ins are.
    """
    import onnx

    if onnx.defs.has(node.op_type):
        return False
    described = node.op_type.endswith("_TRT") or any(name.startswith("plugin_") for name in attributes)
    return described or not (domain == "" or domain.startswith("ai.onnx"))


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
        raise Refused(f"{where} is of type {attribute.type}, which ONNX does not define", _CORRECT)
    if attribute.reference:
        return
    field = _FIELDS.get(attribute.type)
    other = attribute.held - {field}
    if attribute.type and other:
        raise Refused(f"{where} holds other values than its type says", _CORRECT)
    if attribute.type in _MUST_BE_HELD and not attribute.held:
        raise Refused(f"{where} holds no value", _CORRECT)


class Scopes:
    """Does every value have one producer that precedes its consumers? Names are looked up as ONNX scopes them."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}  # name -> number of enclosing graphs that define it

    def check(self, graph: Graph, what: str = "the graph") -> None:
        """Check a graph and the bodies in it.

        Raises:
            Refused: a value is produced twice, or not before it is used, or an output is not produced at all.
        """
        own: set[str] = set()
        listed = [value.name for value in graph.inputs]
        constants = [value.name for value in graph.constants]
        if twice := _twice(listed) or _twice(constants):
            raise Refused(f"{what} declares {twice!r} twice")
        for name in (*listed, *constants):
            self._add(name, own)
        later = {name for node in graph.nodes for name in node.outputs}
        for node in graph.nodes:
            self._check_node(node, own, later)
        outputs = [value.name for value in graph.outputs]
        if twice := _twice(outputs):
            raise Refused(f"{what} lists its output {twice!r} twice")
        for name in outputs:
            if name not in self._seen:
                raise Refused(f"{what} has an output {name!r} that no node produces")
        for name in own:
            self._seen[name] -= 1
            if not self._seen[name]:
                del self._seen[name]

    def _check_node(self, node: Node, own: set[str], later: set[str]) -> None:
        if not any(node.outputs):
            raise Refused(f"{node.label} has no outputs", "remove it")
        for name in node.inputs:
            if name and name not in self._seen:
                if name in later:
                    why = "is produced only after it: the nodes form a cycle, or are out of order"
                else:
                    why = "is produced by no node"
                raise Refused(f"{node.label}: its input {name!r} {why}", _CORRECT)
        for body in node.bodies:
            self.check(body, f"a body of {node.label}")
        for name in filter(None, node.outputs):
            if name in own:
                raise Refused(f"{node.label}: {name!r} is produced twice", _CORRECT)
            self._add(name, own)

    def _add(self, name: str, own: set[str]) -> None:
        if name not in own:
            own.add(name)
            self._seen[name] = self._seen.get(name, 0) + 1


def _twice(names: list[str]) -> str | None:
    """A name that occurs more than once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


_FunctionKey: TypeAlias = tuple[str, str, str]


def check_functions(model: Model, budgets: Budgets) -> int:
    """The number of nodes with every call expanded.

    Raises:
        Refused: a function calls itself, two have the same name, or the whole is beyond a budget.
    """
    functions: dict[_FunctionKey, Function] = {}
    for function in model.functions:
        if function.key in functions:
            raise Refused(f"function {function.name!r} is defined twice", _EXPAND)
        functions[function.key] = function
    expansion = _Expansion(functions, budgets)
    for key in functions:
        expansion.size(key, ())
    total = expansion.size_of(model.graph, ())[0] if model.graph else 0
    if total > budgets.nodes:
        raise TooLarge(f"with its functions expanded it has {total:.3g} nodes; {budgets.nodes} is the limit", _EXPAND)
    return total


class _Expansion:
    """Sizes of functions with every call expanded: their nodes, and how deep their calls are nested."""

    def __init__(self, functions: Mapping[_FunctionKey, Function], budgets: Budgets) -> None:
        self._functions = functions
        self._most = budgets.calls
        self._sizes: dict[_FunctionKey, tuple[int, int]] = {}

    def size(self, key: _FunctionKey, callers: tuple[_FunctionKey, ...]) -> tuple[int, int]:
        """The size of a function that these functions call, one within the other."""
        if key not in self._sizes:
            if key in callers:
                raise Refused(f"function {self._functions[key].name!r} calls itself", _EXPAND)
            too_deep = TooLarge(f"functions call each other more than {self._most} deep", _EXPAND)
            if len(callers) >= self._most:
                raise too_deep
            self._sizes[key] = self.size_of(self._functions[key].graph, (*callers, key))
            if self._sizes[key][1] > self._most:
                raise too_deep
        return self._sizes[key]

    def size_of(self, graph: Graph, callers: tuple[_FunctionKey, ...]) -> tuple[int, int]:
        """The size of a graph with its bodies."""
        nodes = depth = 0
        for node in _all_nodes(graph):
            key = (node.domain, node.op_type, node.overload)
            inner_nodes, inner_depth = self.size(key, callers) if key in self._functions else (1, 0)
            nodes, depth = nodes + inner_nodes, max(depth, inner_depth)
        return nodes, depth + 1


def _all_nodes(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes:
        yield node
        for body in node.bodies:
            yield from _all_nodes(body)
