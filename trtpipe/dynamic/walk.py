"""What a graph does at given input shapes, found without computing it.

Node by node, with every size known: ONNX's own shape inference says what comes out, and whether the operator takes what
goes in. What depends on shapes alone (``Shape``, and all that is made of it: sizes, positions, bounds of slices) is
computed for real by ONNX's reference implementation, so that ``Reshape``, ``Slice``, ``Expand`` and ``Gather`` are
judged by what they will be given. Values of the user's stay unknown, and what follows from them too.

ONNX's inference is native code: call this in a child process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx
from onnx import TypeProto, helper, numpy_helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

from trtpipe.passes.fold_constants import evaluator_of
from trtpipe.passes.infer_types import schema_of
from trtpipe.passes.operators import CONTAINERS

Shape: TypeAlias = tuple[int, ...]

#: Values of more elements than this are not computed: arithmetic on shapes and positions is small.
_MOST_ELEMENTS = 1 << 20
#: ONNX's inference looks at contents that are shapes, axes, bounds: a handful of numbers.
_MOST_TOLD = 256
#: Operators whose windows may be larger than what they slide over: the result would have no elements.
_WINDOWS = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool", "ConvInteger", "QLinearConv", "ConvTranspose"})
_MOST_SHOWN = 4
#: The elements TensorRT can count, by its own words.
_MOST_COUNTED = 1 << 40

_OWN = ("", "ai.onnx")
_RANDOM = ("Random", "Multinomial", "Bernoulli")


@dataclass(frozen=True)
class Misfit:
    """The first node that does not take what it would be given: its name or number, its operator, and why."""

    node: str
    op: str
    reason: str


@dataclass
class _Scope:
    """What is known of the values of a graph: types with shapes, and contents."""

    types: dict[str, TypeProto] = field(default_factory=dict)
    contents: dict[str, np.ndarray] = field(default_factory=dict)

    def copy(self) -> _Scope:
        return _Scope(dict(self.types), dict(self.contents))

    def take(self, tensors: Iterable[onnx.TensorProto]) -> _Scope:
        """Initializers: their shapes, and the contents of small ones that lie in the file itself."""
        for tensor in tensors:
            self.types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            small = np.prod(tensor.dims, dtype=np.float64) <= _MOST_ELEMENTS
            if small and tensor.data_location != onnx.TensorProto.EXTERNAL:
                self.contents[tensor.name] = numpy_helper.to_array(tensor)
        return self


class Walker:
    """Walks one model at any number of shapes.

    Attributes:
        inputs: the graph's inputs that are no initializers, with their types.
        elements: how many elements the tensors have that the last walk met.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        inlined = inline_local_functions(model) if model.functions else model
        given = {tensor.name for tensor in inlined.graph.initializer}
        self.inputs = {value.name: value.type for value in inlined.graph.input if value.name not in given}
        self.elements = 0.0
        self._domains = _Domains(inlined)
        self._graph = _Graph(inlined.graph, self._domains)
        self._constants = _Scope().take(inlined.graph.initializer)

    def misfit(self, shapes: Mapping[str, Shape], contents: Mapping[str, np.ndarray]) -> Misfit | None:
        """The first node that cannot work at these input shapes; ``None`` where none is found.

        Args:
            shapes: input name -> shape; dimensions of other inputs are those of the graph.
            contents: inputs whose values are known.
        """
        scope = self._constants.copy()
        for name, kind in self.inputs.items():
            element = kind.tensor_type.elem_type
            scope.types[name] = helper.make_tensor_type_proto(element, shapes[name]) if name in shapes else kind
        scope.contents.update(contents)
        self.elements = 0.0
        return self._walk(self._graph, scope)

    def _walk(self, graph: _Graph, scope: _Scope) -> Misfit | None:
        for node in graph.nodes:
            found = self._branches(node, scope) if node.op in CONTAINERS else self._step(node, scope)
            if found is not None:
                return found
        return None

    def _step(self, node: _Node, scope: _Scope) -> Misfit | None:
        types = {name: scope.types[name] for name in node.inputs if name in scope.types}
        contents = {name: scope.contents[name] for name in node.inputs if name in scope.contents}
        if len(types) != len(node.inputs) or node.schema is None:
            return None  # a type of unknown semantics: its result is unknown, too
        try:
            found = self._domains.infer(node, types, contents)
        except onnx.shape_inference.InferenceError as error:
            wrong_shape = "ShapeInferenceError" in str(error)
            return Misfit(node.label, node.op, _not_taken(node.proto, types, contents)) if wrong_shape else None
        except (ValueError, KeyError, RuntimeError, TypeError):  # a kind of value that inference does not handle
            return None
        scope.types.update(found)
        self.elements += sum(_elements(kind) or 0 for kind in found.values())
        if node.proto.domain in _OWN:
            if (reason := _wrong(node.proto, types, contents, found)) is not None:
                return Misfit(node.label, node.op, reason)
            self._compute(node, scope, contents)
        return None

    def _compute(self, node: _Node, scope: _Scope, contents: Mapping[str, np.ndarray]) -> None:
        """The outputs' values, where they follow from shapes and constants."""
        outputs = [name for name in node.proto.output if name]
        sizes = [_elements(scope.types.get(name)) for name in outputs]
        if any(size is None or size > _MOST_ELEMENTS for size in sizes):
            return
        feeds = dict(contents)
        if node.op in ("Shape", "Size"):
            shape = shape_of(scope.types[node.inputs[0]])
            if shape is None:
                return
            feeds = {node.inputs[0]: np.broadcast_to(np.zeros((), np.uint8), shape)}
        if len(feeds) != len(node.inputs) or node.op.startswith(_RANDOM):
            return
        try:
            with np.errstate(all="ignore"):
                results = self._domains.evaluator(node).run(None, feeds)
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError, AttributeError, KeyError):
            return  # the reference implementation knows no better: the values stay unknown
        scope.contents.update({name: np.asarray(value) for name, value in zip(outputs, results, strict=False)})

    def _branches(self, node: _Node, scope: _Scope) -> Misfit | None:
        """If: the branch that is taken, where that is known; else what both agree upon. Of loops nothing is known."""
        if node.op != "If":
            return None
        condition = scope.contents.get(node.inputs[0])
        if condition is not None:
            body = node.bodies["then_branch" if condition.any() else "else_branch"]
            inner = scope.copy().take(body.initializers)
            found = self._walk(body, inner)
            for name, result in zip(node.proto.output, body.outputs, strict=False) if found is None else ():
                if result in inner.types:
                    scope.types[name] = inner.types[result]
                if result in inner.contents:
                    scope.contents[name] = inner.contents[result]
            return found
        results = []
        for body in node.bodies.values():
            inner = scope.copy().take(body.initializers)
            if self._walk(body, inner) is not None:  # it may never be taken
                return None
            results.append([inner.types.get(name) for name in body.outputs])
        for name, *kinds in zip(node.proto.output, *results, strict=False):
            if name and all(kind is not None and kind == kinds[0] for kind in kinds):
                scope.types[name] = kinds[0]
        return None


def shape_of(kind: TypeProto | None) -> Shape | None:
    """The shape of a tensor type, where every dimension is known."""
    dims = None if kind is None else _dims(kind)
    known = tuple(dim for dim in dims or () if dim is not None)
    return known if dims is not None and len(known) == len(dims) else None


def _elements(kind: TypeProto | None) -> int | None:
    shape = shape_of(kind)
    return None if shape is None else int(np.prod(shape, dtype=np.float64))


def _not_taken(node: onnx.NodeProto, types: Mapping[str, TypeProto], contents: Mapping[str, np.ndarray]) -> str:
    """Words for an operator that does not take the shapes of its inputs."""
    shown = [_described(name, types, contents) for name in node.input[:_MOST_SHOWN] if name]
    return f"does not take {' and '.join(shown)}"


def _wrong(
    node: onnx.NodeProto,
    types: Mapping[str, TypeProto],
    contents: Mapping[str, np.ndarray],
    found: Mapping[str, TypeProto],
) -> str | None:
    """What is wrong with a node whose outputs have the types ``found``; ``None`` where nothing is."""
    for kind in found.values():
        if (count := np.prod(_known(kind), dtype=np.float64)) > _MOST_COUNTED:
            return f"makes {_size(kind)}, and TensorRT counts to {_MOST_COUNTED} elements, not to {count:.3g}"
    if node.op_type == "Gather" and node.input[1] in contents:
        return _beyond_table(node, types, contents[node.input[1]])
    if node.op_type == "Reshape":
        return _other_count(types[node.input[0]], found.get(node.output[0]))
    if node.op_type in _WINDOWS and any(dim <= 0 for dim in _known(found.get(node.output[0]))):
        return f"slides over {_size(types[node.input[0]])}, which is smaller than its window"
    return None


def _beyond_table(node: onnx.NodeProto, types: Mapping[str, TypeProto], indices: np.ndarray) -> str | None:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    dims = _dims(types[node.input[0]])
    if dims is None or not -len(dims) <= axis < len(dims) or not indices.size:
        return None
    rows = dims[axis]
    low, high = int(indices.min()), int(indices.max())
    if rows is None or (-rows <= low and high < rows):
        return None
    return f"reads entry {high if high >= rows else low} of a table of {rows}"


def _other_count(before: TypeProto, after: TypeProto | None) -> str | None:
    first, second = _dims(before), None if after is None else _dims(after)
    if first is None or second is None or None in first or None in second:
        return None
    counts = [np.prod([dim or 0 for dim in dims], dtype=np.float64) for dims in (first, second)]
    return None if counts[0] == counts[1] else f"cannot make {_text(second)} of {_text(first)}"


def _dims(kind: TypeProto) -> tuple[int | None, ...] | None:
    """The sizes of a tensor type, ``None`` for each that is not known; ``None`` if not even the rank is."""
    if not kind.tensor_type.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.tensor_type.shape.dim)


def _known(kind: TypeProto | None) -> list[int]:
    return [] if kind is None else [dim for dim in _dims(kind) or () if dim is not None]


def _text(dims: tuple[int | None, ...]) -> str:
    return "x".join("?" if dim is None else str(dim) for dim in dims) or "a scalar"


def _size(kind: TypeProto) -> str:
    dims = _dims(kind)
    return "an unknown shape" if dims is None else _text(dims)


def _described(name: str, types: Mapping[str, TypeProto], contents: Mapping[str, np.ndarray]) -> str:
    value = contents.get(name)
    if value is not None and value.ndim <= 1 and value.size <= 8 and np.issubdtype(value.dtype, np.integer):
        return f"the numbers {value.reshape(-1).tolist()}"
    return _size(types[name])


class _Domains:
    """The operators a model may use, and how to ask ONNX about them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._imports = list(model.opset_import)
        self.versions = {entry.domain: entry.version for entry in self._imports}
        self._ir_version = model.ir_version
        self._evaluators: dict[int, ReferenceEvaluator] = {}

    def infer(
        self, node: _Node, types: Mapping[str, TypeProto], contents: Mapping[str, np.ndarray]
    ) -> dict[str, TypeProto]:
        small = {name: value for name, value in contents.items() if value.size <= _MOST_TOLD}
        data = {name: numpy_helper.from_array(value, name) for name, value in small.items()}
        assert node.schema is not None
        return onnx.shape_inference.infer_node_outputs(
            node.schema, node.proto, dict(types), data, {}, self._imports, self._ir_version
        )

    def evaluator(self, node: _Node) -> ReferenceEvaluator:
        key = id(node)  # of ours, which live as long as the model does
        if key not in self._evaluators:
            outputs = [name for name in node.proto.output if name]
            self._evaluators[key] = evaluator_of(node.proto, node.inputs, outputs, self._imports)
        return self._evaluators[key]


class _Node:
    """A node, with what need not be found out anew in every walk."""

    def __init__(self, proto: onnx.NodeProto, number: int, domains: _Domains) -> None:
        self.proto = proto
        self.op = proto.op_type
        self.label = proto.name or f"number {number}"
        self.inputs = tuple(dict.fromkeys(name for name in proto.input if name))
        self.schema = schema_of(proto, domains.versions)
        self.bodies = {
            attribute.name: _Graph(attribute.g, domains)
            for attribute in proto.attribute
            if attribute.type == onnx.AttributeProto.GRAPH
        }


class _Graph:
    """The nodes of a graph or a body, its initializers, and the names of its outputs."""

    def __init__(self, proto: onnx.GraphProto, domains: _Domains) -> None:
        self.nodes = [_Node(node, number, domains) for number, node in enumerate(proto.node)]
        self.initializers = list(proto.initializer)
        self.outputs = [value.name for value in proto.output]
