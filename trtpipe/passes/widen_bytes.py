"""Arithmetic on bytes in float32: TensorRT takes a uint8 input, but nothing except a Cast may read it.

Images come as bytes, and models move, crop and resize them before the first Cast. Every byte is a float32, and so is
every result of a sum, difference, product or quotient of two; what leaves 0 to 255 is wrapped, as ONNX's integers are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.config.formats import FP32
from trtpipe.passes.constants import add_constant, array_of, drop_unused_constants, replace_value
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, node_label
from trtpipe.passes.operators import PURE_MOVES, is_standard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BYTE, _WIDE = ir.DataType.UINT8, ir.DataType.FLOAT
#: operators whose results are some of the bytes they read, or comparisons of them
_CHOOSES = PURE_MOVES | {
    "Concat", "Pad", "MaxPool", "Where", "Max", "Min", "Clip", "ReduceMax", "ReduceMin", "Resize", "ScatterND",
    "ScatterElements", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
}  # fmt: skip
#: operators whose results may leave 0 to 255
_WRAPS = frozenset({"Add", "Sub", "Mul"})


class WidenBytes(GraphPass):
    """Let nodes that read and make uint8 compute in float32; a Cast of theirs becomes one of float32, or none.

    A graph in which only Casts read bytes, and none makes bytes but its outputs, is left as it is.
    """

    name = "widen_bytes"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every such node; a node of another operator gets its bytes back, and the parser names it."""
        found = [node for node in model.graph.all_nodes() if _applies(node)]
        if not any(node.op_type != "Cast" or _between(node) for node in found):
            return PassResult(self.name, modified=False)
        _Widener(model).rewrite(found)
        drop_unused_constants(model)
        return PassResult(self.name, modified=True)


def _applies(node: ir.Node) -> bool:
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    if not is_standard(node) or all(value.dtype != _BYTE for value in values):
        return False
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    return node.op_type in _CHOOSES | _WRAPS | {"Cast", "Div"}


def _between(cast: ir.Node) -> bool:
    """Whether a Cast makes bytes that a node reads."""
    return cast.outputs[0].dtype == _BYTE and bool(cast.outputs[0].uses())


class _Widener:
    """Rewrites the nodes of one model: each that makes bytes gets a twin in float32."""

    def __init__(self, model: ir.Model) -> None:
        self._fresh = FreshNames(model)
        self._wide: dict[ir.Value, ir.Value] = {}

    def rewrite(self, nodes: Sequence[ir.Node]) -> None:
        """Rewrite ``nodes``, which are in topological order."""
        replaced = [node for node in nodes if any(value.dtype == _BYTE for value in node.outputs)]
        for node in nodes:
            if node in replaced:
                self._twin(node)
            elif not self._spared(node):
                for index, value in enumerate(node.inputs):
                    if value is not None and value.dtype == _BYTE:
                        node.replace_input_with(index, self._version(value))
        for node in reversed(replaced):
            for value in node.outputs:
                self._give_bytes(node, value, set(replaced))
            _graph_of(node).remove(node, safe=True)

    def _spared(self, node: ir.Node) -> bool:
        """Whether a node is a Cast of bytes to float32, and its readers read the bytes' float32 version instead."""
        source, result = node.inputs[0], node.outputs[0]
        if node.op_type != "Cast" or result.dtype != _WIDE or result.is_graph_output() or source is None:
            return False
        if source.producer() is None and source not in self._wide and array_of(source) is None:
            self._wide[source] = result  # it is the Cast that an input needs
            _first(node)
            return True
        replace_value(result, self._version(source))
        _graph_of(node).remove(node, safe=True)
        return True

    def _version(self, value: ir.Value) -> ir.Value:
        """The float32 value equal to ``value``: of a twin, of a constant, or of a Cast made here."""
        if value not in self._wide:
            graph, producer = value.graph, value.producer()
            assert isinstance(graph, ir.Graph)
            if (array := array_of(value)) is not None:
                name = f"{value.name}_{FP32.storage}"
                self._wide[value] = add_constant(graph, self._fresh, name, array.astype(FP32.dtype))
            else:
                cast = self._made("Cast", [value], {"to": int(_WIDE)}, str(value.name), value)
                if producer is None:
                    graph.insert_before(graph[0], [cast])
                else:
                    graph.insert_after(producer, [cast])
                self._wide[value] = cast.outputs[0]
        return self._wide[value]

    def _twin(self, node: ir.Node) -> None:
        """The same operator on float32, before ``node``; and what brings its results back into 0 to 255."""
        label, results = node_label(node), list(node.outputs)
        inputs = [self._version(v) if v is not None and v.dtype == _BYTE else v for v in node.inputs]
        attributes: dict[str, ir.Attr] = dict(node.attributes)
        if node.op_type == "Cast":
            attributes["to"] = ir.AttrInt64("to", int(_WIDE))
        outputs = [ir.val(self._fresh(f"{v.name}_{FP32.storage}"), _WIDE, v.shape) for v in results]
        twin = ir.Node(
            node.domain, node.op_type, inputs, attributes.values(), outputs=outputs, name=self._fresh(f"{label}_wide")
        )
        twin.metadata_props.update(node.metadata_props)
        _graph_of(node).insert_before(node, twin)
        for old, new in zip(results, twin.outputs, strict=True):
            self._wide[old] = self._brought_back(node, new)

    def _brought_back(self, node: ir.Node, value: ir.Value) -> ir.Value:
        """What the integer operator would have made of ``value``."""
        source = node.inputs[0]
        if node.op_type == "Cast" and source is not None and source.dtype is not None and not source.dtype.is_integer():
            bounds = [self._constant(node, number) for number in (0.0, 255.0)]  # ONNX leaves open what is beyond them
            return self._insert(node, "Floor", [self._insert(node, "Clip", [value, *bounds])])
        if node.op_type == "Div":
            return self._insert(node, "Floor", [value])
        if node.op_type not in _WRAPS | {"Cast"}:
            return value
        size = self._constant(node, 256.0)
        turns = self._insert(node, "Floor", [self._insert(node, "Div", [value, size])])
        return self._insert(node, "Sub", [value, self._insert(node, "Mul", [turns, size])])

    def _give_bytes(self, node: ir.Node, value: ir.Value, replaced: set[ir.Node]) -> None:
        """A Cast back to bytes for readers that were not rewritten, and for an output of the graph."""
        if value.is_graph_output() or any(use.node not in replaced for use in value.uses()):
            cast = self._made("Cast", [self._wide[value]], {"to": int(_BYTE)}, f"{value.name}_bytes", value)
            cast.outputs[0].dtype = _BYTE
            _graph_of(node).insert_after(node, [cast])
            replace_value(value, cast.outputs[0])

    def _constant(self, node: ir.Node, number: float) -> ir.Value:
        return add_constant(_graph_of(node), self._fresh, "byte_bound", np.array(number, FP32.dtype))

    def _insert(self, node: ir.Node, op_type: str, inputs: Sequence[ir.Value]) -> ir.Value:
        made = self._made(op_type, inputs, {}, f"{node_label(node)}_{op_type}", node.outputs[0])
        _graph_of(node).insert_before(node, [made])
        return made.outputs[0]

    def _made(
        self, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, int], label: str, like: ir.Value
    ) -> ir.Node:
        output = ir.val(self._fresh(f"{label}_{FP32.storage}"), _WIDE, like.shape)
        return ir.node(op_type, inputs, attributes, outputs=[output], name=self._fresh(f"{label}_{op_type.lower()}"))


def _first(node: ir.Node) -> None:
    """Put a node that reads an input before all others of its graph."""
    graph = _graph_of(node)
    if graph[0] is not node:
        graph.remove(node)
        graph.insert_before(graph[0], [node])


def _graph_of(node: ir.Node) -> ir.Graph:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph
