"""What TensorRT takes in float32 alone, though ONNX has it in 16 bits: found with TensorRT-RTX 1.7."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.config.formats import BF16, FP32, HALF_FORMATS
from trtpipe.passes.constants import add_constant, array_of, drop_unused_constants
from trtpipe.passes.decisions import FLOAT32_ALONE
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, node_label
from trtpipe.passes.operators import RECURRENT, is_standard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.config.formats import Format

#: Its parser refuses the activations and GRU, its builder the transposed convolution.
_REFUSED: Mapping[Format, frozenset[str]] = MappingProxyType(
    {BF16: frozenset({"ConvTranspose", "GRU", "HardSwish", "Mish"})}
)
#: Its parser makes constants in float32 for them.
_NORMALIZES = frozenset({"MeanVarianceNormalization"})
_LENGTHS = 4  # the input of LSTM, GRU and RNN that holds the length of each sequence


def refused_in(node: ir.Node, half: Format) -> str | None:
    """Why TensorRT takes ``node`` in float32 only; ``None`` if it takes it in ``half``."""
    if not is_standard(node):
        return None
    if node.op_type in RECURRENT and len(node.inputs) > _LENGTHS and node.inputs[_LENGTHS] is not None:
        return f"{FLOAT32_ALONE}: with sequence lengths"
    if node.op_type in _NORMALIZES:
        return FLOAT32_ALONE
    return f"TensorRT takes this operator in no {half.storage}" if node.op_type in _REFUSED.get(half, ()) else None


class ComputeInFloat32(GraphPass):
    """Cast around nodes of a 16-bit graph that TensorRT takes in float32 only; constants are converted."""

    name = "compute_in_float32"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite, in the main graph and in bodies."""
        fresh = FreshNames(model)
        found = [(node, half) for node in model.graph.all_nodes() if (half := _refused_type(node)) is not None]
        for node, half in found:
            _cast_around(node, half, fresh)
        if found:
            drop_unused_constants(model)
        return PassResult(self.name, modified=bool(found))


def _refused_type(node: ir.Node) -> ir.DataType | None:
    """The 16-bit type of a node that TensorRT does not take in it."""
    types = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None}
    for half in HALF_FORMATS:
        if ir.DataType[half.onnx] in types and refused_in(node, half) is not None:
            return ir.DataType[half.onnx]
    return None


def _cast_around(node: ir.Node, half: ir.DataType, fresh: FreshNames) -> None:
    graph, label = node.graph, node_label(node)
    assert isinstance(graph, ir.Graph)
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype != half:
            continue
        name = f"{value.name}_float32"
        if (array := array_of(value)) is not None:
            wide = add_constant(graph, fresh, name, array.astype(FP32.dtype))
        else:
            cast = _cast(value, ir.DataType.FLOAT, fresh(name), fresh(f"{label}_to_float32"))
            graph.insert_before(node, cast)
            wide = cast.outputs[0]
        node.replace_input_with(index, wide)
    for value in node.outputs:
        if value.dtype != half or not value.name:
            continue
        back = _cast(value, half, "", fresh(f"{label}_from_float32"))
        graph.insert_after(node, back)
        narrow = back.outputs[0]
        value.replace_all_uses_with(narrow, replace_graph_outputs=True)
        back.replace_input_with(0, value)
        narrow.name, value.name = value.name, fresh(f"{value.name}_float32")
        value.dtype = ir.DataType.FLOAT


def _cast(value: ir.Value, dtype: ir.DataType, name: str, label: str) -> ir.Node:
    output = ir.val(name or None, dtype, value.shape)
    return ir.node("Cast", [value], {"to": int(dtype)}, outputs=[output], name=label)
