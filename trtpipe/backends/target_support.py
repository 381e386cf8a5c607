"""What a target cannot do, found without a build: a TensorRT version that lacks it, an element type it lacks."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from trtpipe.backends.base import Refusal
from trtpipe.backends.trt.flavor import TITLES, Flavor
from trtpipe.config.formats import FORMATS
from trtpipe.config.target import TARGETS, Target
from trtpipe.preflight.onnx_io import dtype_name, read_proto

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import onnx

#: ONNX element types that TensorRT lacks; its parser refuses them without naming the tensor.
_UNKNOWN = (
    "INT16", "UINT16", "UINT32", "UINT64", "COMPLEX64", "COMPLEX128", "STRING", "FLOAT8E5M2", "FLOAT8E4M3FNUZ",
    "FLOAT8E5M2FNUZ", "FLOAT8E8M0", "UINT4", "UINT2", "INT2",
)  # fmt: skip
_CONVERTED = "convert it outside the model: every target takes int32, int64, float32 and float16"
#: In which other form TensorRT takes what such a type is for.
_INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "FLOAT8E8M0": "write blocks of such scales (MXFP8) in TensorRT's own operators, TRT_MXFP8DequantizeLinear and "
        "TRT_MXFP8DynamicQuantize of the domain trt; or give the model as it was before it was quantized"
    }
)
#: Attributes that hold the code of an element type.
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype"})
_PRODUCTS = frozenset({"MatMul", "Gemm"})


def refuse_target(flavor: Flavor, version: str, target: Target) -> Refusal | None:
    """Why ``version`` of a TensorRT flavor builds no engines for ``target``, by the table of targets."""
    support = target.rtx if flavor == "tensorrt-rtx" else target.tensorrt
    if support is None:
        known = ", ".join(other.name for other in TARGETS if other.rtx is not None)
        return Refusal(
            f"{TITLES[flavor]} builds no engines for {target} ({target.family})",
            f"use --backend tensorrt on a machine with that GPU, or a target it knows: {known}; or build with "
            "--handover, which leaves this engine to a machine that can",
        )
    if not support.includes(version):
        return Refusal(
            f"{TITLES[flavor]} {version} builds no engines for {target} ({target.family}): {support} do",
            f"install {flavor} {support}",
        )
    return None


def refuse_graph(model: Path, target: Target) -> Refusal | None:
    """Why ``model`` cannot become an engine for ``target`` that computes what ONNX says.

    Raises:
        InputError: ``model`` is no readable ONNX file.
    """
    return refuse_types(model, target) or refuse_misread(model)


def refuse_types(model: Path, target: Target) -> Refusal | None:
    """Why an element type in ``model`` rules ``target`` out: TensorRT lacks it, or the GPU cannot compute in it.

    Raises:
        InputError: ``model`` is no readable ONNX file.
    """
    import onnx

    if (refusal := refuse_unknown_types(model)) is not None:
        return refusal
    proto, codes = read_proto(model), onnx.TensorProto.DataType
    lacking = {codes.Value(form.onnx): form for form in FORMATS if form.capability > target.capability}
    for code, place in _types(proto):
        form = lacking.get(code)
        if form is not None:
            able = ", ".join(other.name for other in TARGETS if form.capability <= other.capability)
            return Refusal(
                f"{model.name}: {place} is {form.storage}, which {target} ({target.family}) cannot compute",
                f"choose another precision, or a target that can: {able}",
            )
    return None


def refuse_unknown_types(model: Path) -> Refusal | None:
    """Which element type of an input, output or constant TensorRT lacks on every target.

    Raises:
        InputError: ``model`` is no readable ONNX file.
    """
    import onnx

    codes = onnx.TensorProto.DataType
    unknown = {codes.Value(name): name for name in _UNKNOWN if name in codes.keys()}  # noqa: SIM118  no mapping
    for code, place in _stored_types(read_proto(model).graph):
        if code in unknown:
            return Refusal(
                f"{model.name}: {place} is {dtype_name(code)}, a type that TensorRT does not have",
                _INSTEAD.get(unknown[code], _CONVERTED),
            )
    return None


def refuse_misread(model: Path) -> Refusal | None:
    """Why a graph would become another engine than ONNX says: a node that the importer takes for something else.

    Graphs that trtpipe simplified hold none, except where sizes that the rewriting needs are unknown.
    """
    import onnx_ir as ir

    from trtpipe.passes.graph_pass import node_label
    from trtpipe.passes.importer_forms import misread

    found = misread(ir.serde.deserialize_model(read_proto(model)))
    if found is None:
        return None
    node, read_as = found
    return Refusal(
        f"{model.name}: node {node_label(node)!r} ({node.op_type}) would be imported as {read_as}",
        "build from the model itself, which rewrites it; if it remains there, export with fixed sizes",
    )


def find_float32_product(model: Path) -> str | None:
    """The name of a MatMul or Gemm that multiplies by a float32 weight, if there is one."""
    import onnx

    for graph in graphs_in(read_proto(model).graph):
        weights = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
        for node in graph.node:
            if node.op_type in _PRODUCTS and weights.intersection(node.input[:2]):
                return str(node.name or node.output[0])
    return None


def _stored_types(graph: onnx.GraphProto) -> Iterator[tuple[int, str]]:
    """(element type code, name) of the inputs, outputs and constants."""
    for what, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            yield value.type.tensor_type.elem_type, f"{what} {value.name!r}"
    for inner in graphs_in(graph):
        for tensor in inner.initializer:
            yield tensor.data_type, f"constant {tensor.name!r}"


def _types(proto: onnx.ModelProto) -> Iterator[tuple[int, str]]:
    """Every (element type code, tensor or node) in a model."""
    for graph in graphs_in(proto.graph):
        for tensor in graph.initializer:
            yield tensor.data_type, f"tensor {tensor.name!r}"
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield value.type.tensor_type.elem_type, f"tensor {value.name!r}"
        yield from _types_of_nodes(graph.node)
    for function in proto.functions:
        yield from _types_of_nodes(function.node)


def _types_of_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        place = f"node {node.name or node.output[0]!r} ({node.op_type})"
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES:
                yield attribute.i, place
            if attribute.HasField("t"):
                yield attribute.t.data_type, place


def graphs_in(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph, and the bodies of its nodes at any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                yield from graphs_in(inner)
