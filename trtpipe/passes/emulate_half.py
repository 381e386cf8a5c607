"""Show on a CPU what 16-bit storage does: every 16-bit value is held in float32 but rounded to 16 bits.

onnxruntime's CPU kernels compute FP16 nodes in FP32 and know no BF16 at all, so neither overflow nor rounding between
fused nodes can be seen there. In the emulated graph each result passes through Cast(16) and Cast(32): overflow becomes
infinity and rounding happens exactly where the lowered graph stores 16 bits.
"""

from __future__ import annotations

import onnx_ir as ir

from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
#: operators, and attributes, that decide the output's type whatever the inputs are
_TYPED = frozenset({"Cast", "Constant", "ConstantOfShape", "RandomNormal", "RandomUniform"})
_TYPE_ATTRIBUTES = frozenset({"dtype", "output_dtype", "output_datatype"})


class EmulateHalf(GraphPass):
    """Rewrite 16-bit computation as float32 computation with explicit rounding.

    1. 16-bit constants become float32 constants of the same value.
    2. A node with a 16-bit output gets a float32 output, followed by Cast(16) and Cast(32).
    3. ``Cast(to=16 bits)`` and other nodes whose type is an attribute only get the Cast(32); graph inputs and outputs
       must be float32.
    """

    name = "emulate_half"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite all graphs."""
        touched = False
        fresh = FreshNames(model)
        for graph in graphs_of(model):
            for value in list(graph.initializers.values()):
                touched |= _widen(value)
            for node in list(graph):
                for output in node.outputs:
                    if output.dtype in _HALF:
                        _round_after(graph, node, output, fresh)
                        touched = True
        return PassResult(self.name, modified=touched)


def _widen(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or tensor.dtype not in _HALF:
        return False
    value.const_value = ir.LazyTensor(
        lambda: ir.Tensor(tensor.numpy().astype("float32")),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(tensor.shape.numpy()),
        name=value.name,
    )
    value.dtype = ir.DataType.FLOAT
    return True


def _round_after(graph: ir.Graph, node: ir.Node, output: ir.Value, fresh: FreshNames) -> None:
    half = output.dtype
    assert half is not None
    users = [(use.node, use.idx) for use in output.uses()]
    if node.op_type in _TYPED or not node.attributes.keys().isdisjoint(_TYPE_ATTRIBUTES):
        narrow, created = output, []
    else:
        output.dtype = ir.DataType.FLOAT
        rounding = ir.node("Cast", [output], {"to": int(half)}, name=f"{output.name}_round")
        narrow, created = rounding.outputs[0], [rounding]
        narrow.name, narrow.dtype, narrow.shape = fresh(f"{output.name}_rounded"), half, output.shape
    widening = ir.node("Cast", [narrow], {"to": int(ir.DataType.FLOAT)}, name=f"{output.name}_widen")
    wide = widening.outputs[0]
    wide.name, wide.dtype, wide.shape = fresh(f"{output.name}_wide"), ir.DataType.FLOAT, output.shape
    graph.insert_after(node, [*created, widening])
    for user, index in users:
        user.replace_input_with(index, wide)
