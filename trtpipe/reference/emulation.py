"""Show on a CPU what 16-bit storage does: every 16-bit value is held in float32 but rounded to 16 bits.

onnxruntime's CPU kernels compute FP16 nodes in FP32 and know no BF16 at all, so neither overflow nor rounding between
fused nodes can be seen there. In the emulated graph each result passes through Cast(16) and Cast(32): overflow becomes
infinity and rounding happens exactly where the lowered graph stores 16 bits.
"""

from __future__ import annotations

import onnx_ir as ir

from trtpipe.config.formats import FP32, HALF_FORMATS
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of

_HALF = tuple(ir.DataType[form.onnx] for form in HALF_FORMATS)
#: operators, and attributes, that decide the output's type whatever the inputs are
_TYPED = frozenset({"Cast", "Constant", "ConstantOfShape", "RandomNormal", "RandomUniform"})
_TYPE_ATTRIBUTES = frozenset({"dtype", "output_dtype", "output_datatype"})


class EmulateHalf(GraphPass):
    """Rewrite 16-bit computation as float32 computation with explicit rounding.

    1. 16-bit constants become float32 constants of the same value.
    2. A node with a 16-bit output gets a float32 output, followed by Cast(16) and Cast(32).
    3. ``Cast(to=16 bits)`` and other nodes whose type is an attribute only get the Cast(32).
    4. The model's inputs and outputs keep their types: 16-bit ones are widened behind, and rounded before.
    """

    name = "emulate_half"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite all graphs."""
        touched = False
        fresh = FreshNames(model)
        for value in [each for each in model.graph.inputs if each.dtype in _HALF]:
            _widen_input(model.graph, value, fresh)
            touched = True
        for graph in graphs_of(model):
            for value in list(graph.initializers.values()):
                touched |= _widen(value)
            for node in list(graph):
                for output in node.outputs:
                    if output.dtype in _HALF:
                        public = graph is model.graph and output.is_graph_output()
                        _round_after(graph, node, output, fresh, public=public)
                        touched = True
        return PassResult(self.name, modified=touched)


def _widen_input(graph: ir.Graph, value: ir.Value, fresh: FreshNames) -> None:
    users = [(use.node, use.idx) for use in value.uses()]
    wide = _cast(value, ir.DataType.FLOAT, fresh, "wide")
    if users:
        graph.insert_before(graph[0], [wide])
    for user, index in users:
        user.replace_input_with(index, wide.outputs[0])


def _widen(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or tensor.dtype not in _HALF:
        return False
    value.const_value = ir.LazyTensor(
        lambda: ir.Tensor(tensor.numpy().astype(FP32.dtype)),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(tensor.shape.numpy()),
        name=value.name,
    )
    value.dtype = ir.DataType.FLOAT
    return True


def _round_after(graph: ir.Graph, node: ir.Node, output: ir.Value, fresh: FreshNames, *, public: bool) -> None:
    half = output.dtype
    assert half is not None
    users = [(use.node, use.idx) for use in output.uses()]
    if node.op_type in _TYPED or not node.attributes.keys().isdisjoint(_TYPE_ATTRIBUTES):
        casts = []
    else:
        output.dtype = ir.DataType.FLOAT
        casts = [_cast(output, half, fresh, "rounded")]
        if public:
            _publish(graph, output, casts[0].outputs[0], fresh)
    casts.append(_cast(casts[0].outputs[0] if casts else output, ir.DataType.FLOAT, fresh, "wide"))
    graph.insert_after(node, casts)
    for user, index in users:
        user.replace_input_with(index, casts[-1].outputs[0])


def _cast(value: ir.Value, dtype: ir.DataType, fresh: FreshNames, word: str) -> ir.Node:
    """A node that is in no graph yet."""
    node = ir.node("Cast", [value], {"to": int(dtype)}, name=fresh(f"{value.name}_{word}_cast"))
    result = node.outputs[0]
    result.name, result.dtype, result.shape = fresh(f"{value.name}_{word}"), dtype, value.shape
    return node


def _publish(graph: ir.Graph, old: ir.Value, new: ir.Value, fresh: FreshNames) -> None:
    """Let ``new`` be the output that ``old`` was, under its name."""
    name = str(old.name)
    old.name = fresh(f"{name}_inner")
    for position, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[position] = new
    new.name = name
