"""FP16 and BF16: the graph computes in 16 bits, with casts only where 16 and 32 bits meet.

The interface stays float32. Nodes that 16 bits would harm stay in float32, each for a stated reason; constants are
never clamped. Casts are made once a value, so a value read by many nodes is converted once.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir

from trtpipe.passes.graph_pass import GraphPass, NodeDecision, PassResult, graphs_of, node_label
from trtpipe.passes.infer_types import formal, schema_of

if TYPE_CHECKING:
    from collections.abc import Sequence

HalfType = Literal["float16", "bfloat16"]

_DTYPES: dict[HalfType, ir.DataType] = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
#: largest finite value, and half of the smallest positive one (what lies below becomes 0)
_LIMITS: dict[HalfType, tuple[float, float]] = {"float16": (65504.0, 2.0**-25), "bfloat16": (3.38e38, 2.0**-134)}

_CONTAINERS = frozenset({"If", "Loop", "Scan"})
#: sums and powers whose intermediate values leave float16's range or precision although inputs and outputs fit
_SENSITIVE = frozenset(
    {
        "Pow", "Exp", "Log", "Sqrt", "Reciprocal", "ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceL2",
        "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "CumSum", "InstanceNormalization", "LpNormalization",
    }
)  # fmt: skip
#: coordinates and quantisation parameters: a rounding step of 16 bits moves results visibly
_EXACT = frozenset(
    {
        "NonMaxSuppression", "RoiAlign", "GridSample", "AffineGrid", "Range", "QuantizeLinear", "DequantizeLinear",
        "DynamicQuantizeLinear", "Cast", "CastLike", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform",
        "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli",
    }
)  # fmt: skip


class CastPrecision(GraphPass):
    """Lower float32 computation to 16 bits.

    1. A node is lowered if it computes in float32 and no rule below keeps it.
    2. Kept: control flow itself (bodies are lowered inside), operators in ``_SENSITIVE`` and ``_EXACT``, operators
       whose schema takes no 16-bit type, nodes named by the user, nodes with a constant that overflows or vanishes,
       arithmetic on values that come from integers (shapes, indices, masks).
    3. Constants of lowered nodes are stored in 16 bits, activations are cast where a kept node meets a lowered one.
    """

    def __init__(self, dtype: HalfType, keep: Sequence[str] = ()) -> None:
        self.name = f"cast_{dtype}"
        self._half = dtype
        self._dtype = _DTYPES[dtype]
        self._keep = keep

    def call(self, model: ir.Model) -> PassResult:
        """Decide for every node, then rewrite."""
        decisions = []
        lowered: list[ir.Node] = []
        from_integers: set[ir.Value] = set()
        for node in model.graph.all_nodes():
            if not _touches_float(node):
                continue
            reason = self._kept(node, model.graph.opset_imports, from_integers)
            if reason is None:
                lowered.append(node)
            precision = self._half if reason is None else "float32"
            decisions.append(
                NodeDecision(
                    node=node_label(node), op=node.op_type, precision=precision, reason=reason or "float32 by default"
                )
            )
        _Rewriter(self._half, self._dtype, set(lowered), model.graph.opset_imports).rewrite(model, lowered)
        return PassResult(self.name, modified=bool(lowered), decisions=tuple(decisions))

    def _kept(self, node: ir.Node, opset_imports: dict[str, int], from_integers: set[ir.Value]) -> str | None:
        """Why ``node`` stays in float32, or ``None``. Nodes must be asked in topological order."""
        if _works_on_integers(node, from_integers):
            from_integers.update(node.outputs)
            return "arithmetic on shapes, indices or masks, exact in float32 only"
        if node.op_type in _CONTAINERS:
            return "control flow: its body is lowered inside"
        if node.op_type in _SENSITIVE:
            return "intermediate sums or powers leave 16 bits"
        if node.op_type in _EXACT:
            return "exact values: coordinates, scales or type conversion"
        name = node_label(node)
        for pattern in self._keep:
            if fnmatchcase(name, pattern):
                return f"kept by pattern {pattern!r}"
        schema = schema_of(node, opset_imports)
        if schema is None:
            return "operator without a public schema"
        if any(value is not None and value.dtype is None for value in (*node.inputs, *node.outputs)):
            return "element types unknown"
        if not _takes_half(node, schema, self._half):
            return f"the operator takes no {self._half}"
        return self._bad_constant(node)

    def _bad_constant(self, node: ir.Node) -> str | None:
        largest, vanishing = _LIMITS[self._half]
        for value in node.inputs:
            if value is None or value.dtype != ir.DataType.FLOAT or value.const_value is None:
                continue
            peak = _peak(value)
            if peak > largest:
                return f"constant {value.name!r} reaches {peak:.3g}, beyond {self._half}"
            if 0 < peak <= vanishing:
                return f"constant {value.name!r} ({peak:.3g}) would become 0 in {self._half}"
        return None


class _Rewriter:
    """Carries out the decisions: retypes, casts, converts constants."""

    def __init__(
        self, half: HalfType, dtype: ir.DataType, lowered: set[ir.Node], opset_imports: dict[str, int]
    ) -> None:
        self._half = half
        self._dtype = dtype
        self._lowered = lowered
        self._opset_imports = opset_imports
        self._as_half: dict[ir.Value, ir.Value] = {}
        self._constants: dict[ir.Value, ir.Value] = {}

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
                if value is not None and value.dtype == ir.DataType.FLOAT and not _float_only(parameter):
                    node.replace_input_with(index, self._half_version(value))
        for graph in graphs_of(model):
            for name in [n for n, v in graph.initializers.items() if not v.uses() and not v.is_graph_output()]:
                del graph.initializers[name]

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
        cast = ir.node("Cast", [output], {"to": int(ir.DataType.FLOAT)}, name=f"{name}_to_float32")
        back = cast.outputs[0]
        back.dtype, back.shape, back.name = ir.DataType.FLOAT, output.shape, f"{name}_float32"
        graph.insert_after(node, [cast])
        if public:
            output.name, back.name = f"{name}_{self._half}", name
            for position, value in enumerate(graph.outputs):
                if value is output:
                    graph.outputs[position] = back
        for user, index in high_users:
            user.replace_input_with(index, back)
        self._as_half[back] = output

    def _needs_float(self, node: ir.Node, index: int) -> bool:
        if node not in self._lowered:
            return True
        schema = schema_of(node, self._opset_imports)
        return schema is None or _float_only(formal(schema.inputs, index))

    def _half_version(self, value: ir.Value) -> ir.Value:
        """A 16-bit value equal to the float32 ``value``: a converted constant, or one cast, made once."""
        if value in self._as_half:
            return self._as_half[value]
        converted = (
            self._convert(value) if value.const_value is not None and value.is_initializer() else self._cast(value)
        )
        self._as_half[value] = converted
        return converted

    def _convert(self, value: ir.Value) -> ir.Value:
        tensor, graph = value.const_value, value.graph
        assert tensor is not None and isinstance(graph, ir.Graph) and value.name  # noqa: PT018
        target = self._dtype.numpy()
        name = f"{value.name}_{self._half}"
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
        cast = ir.node("Cast", [value], {"to": int(self._dtype)}, name=f"{value.name}_to_{self._half}")
        output = cast.outputs[0]
        output.dtype, output.shape, output.name = self._dtype, value.shape, f"{value.name}_{self._half}"
        producer, graph = value.producer(), value.graph
        assert isinstance(graph, ir.Graph)
        if producer is not None:
            graph.insert_after(producer, [cast])
        else:
            graph.insert_before(graph[0], [cast])
        return output


def _touches_float(node: ir.Node) -> bool:
    return any(value is not None and value.dtype == ir.DataType.FLOAT for value in (*node.inputs, *node.outputs))


def _works_on_integers(node: ir.Node, from_integers: set[ir.Value]) -> bool:
    """Whether every non-constant float input comes from an integer by way of casts and arithmetic."""
    if node.op_type == "Cast":
        source = node.inputs[0]
        return source is not None and source.dtype is not None and source.dtype.is_integer()
    if node.op_type in _CONTAINERS:
        return False
    floats = [
        value
        for value in node.inputs
        if value is not None and value.dtype == ir.DataType.FLOAT and value.const_value is None
    ]
    return bool(floats) and all(value in from_integers for value in floats)


def _takes_half(node: ir.Node, schema: object, half: HalfType) -> bool:
    """Whether the schema lets every float32 output, and every float32 input of a free type, be 16 bits."""
    import onnx

    assert isinstance(schema, onnx.defs.OpSchema)
    word = f"tensor({half})"
    for index, value in enumerate(node.outputs):
        parameter = formal(schema.outputs, index)
        if value.dtype == ir.DataType.FLOAT and (parameter is None or word not in parameter.types):
            return False
    for index, given in enumerate(node.inputs):
        parameter = formal(schema.inputs, index)
        if given is None or given.dtype != ir.DataType.FLOAT or parameter is None or _float_only(parameter):
            continue
        if word not in parameter.types:
            return False
    return True


def _float_only(parameter: object) -> bool:
    """Whether a formal parameter accepts float32 and no 16-bit type (Resize's scales, for example)."""
    types: set[str] = getattr(parameter, "types", set())
    return "tensor(float)" in types and "tensor(float16)" not in types


def _peak(value: ir.Value) -> float:
    assert value.const_value is not None
    array = value.const_value.numpy()
    return float(np.abs(array).max()) if array.size else 0.0
