"""FP16 and BF16: the graph computes in 16 bits, with casts only where 16 and 32 bits meet.

The interface stays float32. Nodes too sensitive for 16 bits are kept in float32, each for a stated reason; constants
are never clamped. Casts are made once a value, so a value read by many nodes is converted once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.autocast.range_guard import RangeGuard
from trtpipe.autocast.rules import HalfRules, float_only, lone_nodes
from trtpipe.config.formats import FP32, HALF_FORMATS
from trtpipe.passes.constants import drop_unused_constants
from trtpipe.passes.decisions import NodeDecision
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, node_label
from trtpipe.passes.infer_types import formal, schema_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.autocast.tensor_ranges import TensorRanges
    from trtpipe.config.formats import Format

#: Why a node is in 16 bits that came so.
ALREADY = "the model itself computes it in 16 bits"


class CastPrecision(GraphPass):
    """Lower float32 computation to 16 bits.

    1. A node is lowered if it computes in float32 and no rule below keeps it.
    2. Kept: control flow itself (bodies are lowered inside), sums and powers that leave the type's range on real data
       (without data: all of them), coordinates, operators whose schema takes no 16-bit type, nodes named by the user,
       nodes with a constant that overflows or vanishes and what reads their results, arithmetic on values that come
       from integers (shapes, indices, masks).
    3. A cheap node between kept ones is kept as well: two casts would cost more than it gains.
    4. Constants of lowered nodes are stored in 16 bits, activations are cast where a kept node meets a lowered one.

    Args:
        dtype: the type to compute in.
        keep: shell patterns of node names to keep in FP32.
        tensor_ranges: what was measured on real data; ``None`` leaves the fixed rules.
    """

    def __init__(self, dtype: Format, keep: Sequence[str] = (), tensor_ranges: TensorRanges | None = None) -> None:
        self.name = f"cast_{dtype.storage}"
        self._half = dtype
        self._keep = keep
        self._ranges = tensor_ranges

    def call(self, model: ir.Model) -> PassResult:
        """Decide for every node, then rewrite."""
        guard = None if self._ranges is None else RangeGuard(self._half, self._ranges)
        rules = HalfRules(self._half, self._keep, model, guard)
        reasons = {node: rules.kept(node) for node in model.graph.all_nodes() if _touches_float(node)}
        reasons |= lone_nodes(reasons)
        lowered = [node for node, reason in reasons.items() if reason is None]
        why_lowered = "its values fit, as measured" if guard is not None else "no rule keeps it in float32"
        decisions = tuple(
            NodeDecision(
                node=node_label(node),
                op=node.op_type,
                precision=_given_half(node) or (self._half if reasons[node] is None else FP32).label,
                reason=ALREADY if _given_half(node) else reasons[node] or why_lowered,
            )
            for node in model.graph.all_nodes()
            if node in reasons or _given_half(node)
        )
        _Rewriter(self._half, model, set(lowered)).rewrite(model, lowered)
        return PassResult(self.name, modified=bool(lowered), decisions=decisions)


class _Rewriter:
    """Carries out the decisions: retypes, casts, converts constants."""

    def __init__(self, half: Format, model: ir.Model, lowered: set[ir.Node]) -> None:
        self._half = half
        self._dtype = ir.DataType[half.onnx]
        self._lowered = lowered
        self._opset_imports = model.graph.opset_imports
        self._fresh = FreshNames(model)
        self._as_half: dict[ir.Value, ir.Value] = {}

    def rewrite(self, model: ir.Model, lowered: list[ir.Node]) -> None:
        for node in lowered:
            for output in node.outputs:
                if output.dtype == ir.DataType.FLOAT:
                    self._retype(output)
        for node in lowered:
            schema = schema_of(node, self._opset_imports)
            assert schema is not None
            for index, value in enumerate(node.inputs):
                parameter = formal(schema.inputs, index)
                if value is not None and value.dtype == ir.DataType.FLOAT and not float_only(parameter):
                    node.replace_input_with(index, self._half_version(value))
        drop_unused_constants(model)

    def _retype(self, output: ir.Value) -> None:
        """``output`` now carries 16 bits; whoever needs 32 bits reads a cast of it, under the old name if public."""
        high_users = [(use.node, use.idx) for use in output.uses() if self._needs_float(use.node, use.idx)]
        public = output.is_graph_output()
        output.dtype = self._dtype
        if not high_users and not public:
            return
        node, graph = output.producer(), output.graph
        assert node is not None and graph is not None and output.name  # noqa: PT018
        name = output.name
        back = ir.val(None, ir.DataType.FLOAT, output.shape)
        to_float, label = {"to": int(ir.DataType.FLOAT)}, self._fresh(f"{name}_to_float32")
        graph.insert_after(node, [ir.node("Cast", [output], to_float, outputs=[back], name=label)])
        if public:
            output.name, back.name = self._fresh(f"{name}_{self._half.storage}"), name
            for position, value in enumerate(graph.outputs):
                if value is output:
                    graph.outputs[position] = back
        else:
            back.name = self._fresh(f"{name}_float32")
        for user, index in high_users:
            user.replace_input_with(index, back)

    def _needs_float(self, node: ir.Node, index: int) -> bool:
        if node not in self._lowered:
            return not (node.op_type == "Cast" and node.domain == "")  # casts from any type, so spare it a second one
        schema = schema_of(node, self._opset_imports)
        return schema is None or float_only(formal(schema.inputs, index))

    def _half_version(self, value: ir.Value) -> ir.Value:
        """A 16-bit value equal to the float32 ``value``: a converted constant, or one cast, made once."""
        if value in self._as_half:
            return self._as_half[value]
        source = value.producer()
        before = source.inputs[0] if source is not None and source.op_type == "Cast" else None
        if before is not None and before.dtype == self._dtype:  # was in 16 bits already
            return before
        constant = value.const_value is not None and value.is_initializer()
        self._as_half[value] = self._convert(value) if constant else self._cast(value)
        return self._as_half[value]

    def _convert(self, value: ir.Value) -> ir.Value:
        tensor, graph = value.const_value, value.graph
        assert tensor is not None and isinstance(graph, ir.Graph) and value.name  # noqa: PT018
        target = self._dtype.numpy()
        name = self._fresh(f"{value.name}_{self._half.storage}")
        # Lazy, so that a model larger than memory allows is converted tensor by tensor while it is written.
        lazy = ir.LazyTensor(
            lambda: ir.Tensor(tensor.numpy().astype(target), dtype=self._dtype),
            dtype=self._dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )
        converted = ir.Value(name=name, shape=value.shape, type=ir.TensorType(self._dtype), const_value=lazy)
        graph.register_initializer(converted)
        return converted

    def _cast(self, value: ir.Value) -> ir.Value:
        label = self._fresh(f"{value.name}_to_{self._half.storage}")
        output = ir.val(self._fresh(f"{value.name}_{self._half.storage}"), self._dtype, value.shape)
        cast = ir.node("Cast", [value], {"to": int(self._dtype)}, outputs=[output], name=label)
        producer, graph = value.producer(), value.graph
        assert isinstance(graph, ir.Graph)
        if producer is not None:
            graph.insert_after(producer, [cast])
        else:
            graph.insert_before(graph[0], [cast])
        return output


def _given_half(node: ir.Node) -> str:
    """The 16-bit type that ``node`` computes in as the model came; empty for others."""
    types = {value.dtype for value in node.outputs}
    return (
        ""
        if _touches_float(node)
        else next((half.label for half in HALF_FORMATS if ir.DataType[half.onnx] in types), "")
    )


def _touches_float(node: ir.Node) -> bool:
    return any(value is not None and value.dtype == ir.DataType.FLOAT for value in (*node.inputs, *node.outputs))
