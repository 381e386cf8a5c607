"""Modules in 16 bits, exported in float32: their weights are the same numbers there, and all precisions start there.

Lowering decides what computes in which format, calibration and onnxruntime (which has no Conv or Gemm in bfloat16) work
in float32. What is lost is the rounding of 16-bit results; the module's own outputs, which have it, stay the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.config.formats import FP32, HALVES
from trtpipe.passes.graph_pass import FreshNames, graphs_of

if TYPE_CHECKING:
    from trtpipe.config.formats import Format

_HALF = {ir.DataType[form.onnx]: form for form in HALVES}


def widen(model: ir.Model) -> Format | None:
    """Turn 16-bit computation into float32 computation, in place; inputs and outputs keep their types.

    Returns:
        The coarsest 16-bit format there was; ``None`` where there was none.
    """
    found: list[Format] = []
    fresh = FreshNames(model)
    for graph in graphs_of(model):
        found += [_HALF[value.dtype] for value in graph.initializers.values() if value.dtype in _HALF]
        for value in graph.initializers.values():
            _widen_constant(value)
        for node in graph:
            found += [_HALF[value.dtype] for value in node.outputs if value.dtype in _HALF]
            _widen_node(node)
    for value in list(model.graph.inputs):
        if value.dtype in _HALF:
            found.append(_HALF[value.dtype])
            _cast_input(model.graph, value, fresh)
    _cast_outputs(model.graph, fresh)
    return max(found, key=lambda form: form.rounding, default=None)


def _widen_constant(value: ir.Value) -> None:
    if value.const_value is not None and value.dtype in _HALF:
        value.const_value = _wide(value.const_value)
        value.dtype = ir.DataType.FLOAT


def _wide(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    return ir.LazyTensor(
        lambda: ir.Tensor(tensor.numpy().astype(FP32.dtype)),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )


def _widen_node(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _HALF:
            node.attributes[name] = ir.AttrTensor(name, _wide(attribute.as_tensor()))
        elif name in ("to", "dtype", "output_dtype") and attribute.as_int() in {int(each) for each in _HALF}:
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
    for output in node.outputs:
        if output.dtype in _HALF and not output.is_graph_output():
            output.dtype = ir.DataType.FLOAT


def _cast_input(graph: ir.Graph, value: ir.Value, fresh: FreshNames) -> None:
    users = [(use.node, use.idx) for use in value.uses()]
    if not users:
        return
    node, wide = _cast(value, ir.DataType.FLOAT, fresh)
    graph.insert_before(graph[0], [node])
    for user, index in users:
        user.replace_input_with(index, wide)


def _cast_outputs(graph: ir.Graph, fresh: FreshNames) -> None:
    """Let every 16-bit output be a cast of the float32 value that it has become."""
    for position, value in enumerate(list(graph.outputs)):
        half = value.dtype
        if half is None or half not in _HALF or value.is_graph_input():
            continue
        node, narrow = _cast(value, half, fresh)
        graph.append(node)
        graph.outputs[position] = narrow
        value.dtype = ir.DataType.FLOAT


def _cast(value: ir.Value, dtype: ir.DataType, fresh: FreshNames) -> tuple[ir.Node, ir.Value]:
    node = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{value.name}/Cast")
    result = node.outputs[0]
    result.name, result.dtype, result.shape = fresh(f"{value.name}_{dtype.name.lower()}"), dtype, value.shape
    return node, result
