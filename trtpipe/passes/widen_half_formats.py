"""A graph in 16-bit floats as one in float32, which holds all their values: every precision can be made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.config.formats import FP32, HALF_FORMATS
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.config.formats import Format

_KINDS = {ir.DataType[form.onnx]: form for form in HALF_FORMATS}
#: Attributes that name an element type.
_TYPES = ("to", "dtype", "output_dtype", "output_datatype")


def half_formats_in(model: ir.Model) -> tuple[Format, ...]:
    """The 16-bit formats that the graph has: those of its inputs and constants, and those it casts to."""
    given = (value for graph in graphs_of(model) for value in (*graph.inputs, *graph.initializers.values()))
    found: set[object] = {value.dtype for value in given}
    for node in model.graph.all_nodes():
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR:
                found.add(attribute.as_tensor().dtype)
            elif name in _TYPES and attribute.type == ir.AttributeType.INT:
                found.add(attribute.as_int())
    return tuple(form for kind, form in _KINDS.items() if kind in found)


class WidenHalfFormats(GraphPass):
    """Let values of these formats be float32; inputs and outputs of the model keep their types, behind a Cast.

    What rounding to 16 bits did to values on their way is gone: the result is as close or closer to what the model
    means.

    Args:
        formats: those to widen.
    """

    name = "widen_half_formats"

    def __init__(self, formats: tuple[Format, ...]) -> None:
        self._kinds = {ir.DataType[form.onnx] for form in formats}

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite all graphs."""
        fresh = FreshNames(model)
        values = [value for graph in graphs_of(model) for value in _values(graph) if value.dtype in self._kinds]
        inputs = [value for value in values if value in set(model.graph.inputs)]
        outputs = [(value, value.dtype) for value in model.graph.outputs if value.dtype in self._kinds]
        for value in values:
            if value not in inputs:
                _widen(value)
        for node in model.graph.all_nodes():
            self._retype(node)
        for value in inputs:
            self._cast_input(model.graph, value, fresh)
        for value, kind in outputs:
            self._cast_output(model.graph, value, kind, fresh)
        return PassResult(self.name, modified=bool(values))

    def _retype(self, node: ir.Node) -> None:
        """Change the types that attributes name or have."""
        for name, attribute in tuple(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in self._kinds:
                tensor = ir.Tensor(attribute.as_tensor().numpy().astype(FP32.dtype), name=attribute.as_tensor().name)
                node.attributes[name] = ir.AttrTensor(name, tensor)
            elif name in _TYPES and attribute.type == ir.AttributeType.INT and attribute.as_int() in self._kinds:
                node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))

    def _cast_input(self, graph: ir.Graph, value: ir.Value, fresh: FreshNames) -> None:
        users = [(use.node, use.idx) for use in value.uses()]
        if not users:
            return
        cast = _cast(value, ir.DataType.FLOAT, fresh)
        cast.outputs[0].name = fresh(f"{value.name}_{FP32.storage}")
        graph.insert_before(graph[0], [cast])
        for node, index in users:
            node.replace_input_with(index, cast.outputs[0])

    def _cast_output(self, graph: ir.Graph, value: ir.Value, kind: ir.DataType | None, fresh: FreshNames) -> None:
        if kind is None or value.is_graph_input():
            return
        name = str(value.name)
        cast = _cast(value, kind, fresh)
        value.name, cast.outputs[0].name = fresh(f"{name}_{FP32.storage}"), name
        graph.append(cast)
        for position, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[position] = cast.outputs[0]


def _cast(value: ir.Value, kind: ir.DataType, fresh: FreshNames) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": int(kind)}, name=fresh(f"{value.name}_cast"))
    cast.outputs[0].dtype, cast.outputs[0].shape = kind, value.shape
    return cast


def _widen(value: ir.Value) -> None:
    tensor = value.const_value
    if tensor is not None:
        value.const_value = ir.LazyTensor(  # a model larger than memory allows is converted tensor by tensor
            lambda: ir.Tensor(tensor.numpy().astype(FP32.dtype), name=tensor.name),
            dtype=ir.DataType.FLOAT, shape=ir.Shape(tensor.shape.numpy()), name=value.name,
        )  # fmt: skip
    value.dtype = ir.DataType.FLOAT


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    for node in graph:
        yield from node.outputs
