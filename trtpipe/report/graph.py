"""Summary of an ONNX model, read from its protobuf without loading the weights."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from trtpipe.artifact import IOContract, Record
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import onnx


class GraphSummary(Record):
    """An ONNX model.

    Attributes:
        opsets: operator set domain (``ai.onnx`` for ONNX's own) -> version.
        nodes: in the graph, its subgraphs and its functions.
        operators: operator -> count; those outside ``ai.onnx`` with their domain.
        quantize, dequantize, casts: counts of QuantizeLinear, DequantizeLinear and Cast nodes.
        weights: element type -> bytes of constants.
        external: external data files.
    """

    ir_version: int
    opsets: dict[str, int]
    producer: str
    contract: IOContract
    nodes: int
    operators: dict[str, int]
    quantize: int
    dequantize: int
    casts: int
    weights: dict[str, int]
    weight_bytes: int
    external: tuple[str, ...]


def summarize_graph(path: Path) -> GraphSummary:
    """Describe the model at ``path``.

    Raises:
        InputError: it is not ONNX, or its external data cannot be used.
    """
    from trtpipe.preflight.onnx_io import read_proto

    proto = read_proto(path)
    try:
        return _summary(proto, path)
    except (ValueError, TypeError) as error:  # names that are not text, element types that do not exist
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: a damaged ONNX model ({reason})", "export it again") from error


def _summary(proto: onnx.ModelProto, path: Path) -> GraphSummary:
    from trtpipe.preflight.onnx_io import contract_of_proto, dtype_name, external_refs

    nodes = [node for function in proto.functions for node in _nodes(function.node)] + list(_nodes(proto.graph.node))
    operators = Counter(_operator(node) for node in nodes)
    weights: Counter[str] = Counter()
    for tensor in _constants(proto.graph, nodes):
        weights[dtype_name(tensor.data_type)] += _bytes(tensor)
    return GraphSummary(
        ir_version=proto.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        contract=contract_of_proto(proto),
        nodes=len(nodes),
        operators=dict(operators),
        quantize=operators["QuantizeLinear"],
        dequantize=operators["DequantizeLinear"],
        casts=operators["Cast"],
        weights=dict(weights),
        weight_bytes=sum(weights.values()),
        external=tuple(sorted({ref.path.name for ref in external_refs(proto, path)})),
    )


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in _subgraphs(node):
            yield from _nodes(graph.node)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _constants(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Initializers of the graph and its subgraphs, and the values of Constant nodes."""
    yield from graph.initializer
    for node in nodes:
        for subgraph in _subgraphs(node):
            yield from subgraph.initializer
        if node.op_type == "Constant":
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _operator(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _bytes(tensor: onnx.TensorProto) -> int:
    import onnx
    import onnx_ir as ir

    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    if min(tensor.dims, default=0) < 0:
        raise ValueError(f"tensor {tensor.name!r} has a negative dimension")
    bits: int = math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth
    return -(-bits // 8)
