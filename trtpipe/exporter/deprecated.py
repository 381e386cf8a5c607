"""Operators that an opset lists as deprecated, where another one computes the same.

TensorRT's parser and onnxruntime still take them; the ONNX checker does not. Sources: the definitions of the operators
in onnx/docs/Changelog.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import onnx
from onnx import helper

_Write: TypeAlias = "Callable[[onnx.NodeProto, str], list[onnx.NodeProto]]"


def replace_deprecated(model: onnx.ModelProto) -> Iterator[str]:
    """Write deprecated operators as those that compute the same."""
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    due = {op: write for op, (since, until, write) in _REPLACED.items() if since <= opset < until}
    for graph in _graphs(model.graph) if due else ():
        found = [node.op_type for node in graph.node if _own(node, due)]
        if not found:
            continue
        nodes: list[onnx.NodeProto] = []
        for index, node in enumerate(graph.node):
            base = f"{node.output[0]}__{node.op_type}_{index}"
            nodes += due[node.op_type](node, base) if _own(node, due) else [node]
        written = onnx.GraphProto(node=nodes)  # a copy: what is cleared is gone
        del graph.node[:]
        graph.node.extend(written.node)
        for op in sorted(set(found)):
            yield f"{op}, which opset {opset} lists as deprecated, was written as operators that compute the same"


def _own(node: onnx.NodeProto, operators: dict[str, _Write]) -> bool:
    return node.op_type in operators and node.domain in ("", "ai.onnx")


def _group_normalization(node: onnx.NodeProto, base: str) -> list[onnx.NodeProto]:
    """Scale and bias of each group: instance normalization of groups in the place of channels."""
    data, scale, bias = node.input
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    groups = int(settings["num_groups"])
    shapes = [f"{base}_groups", f"{base}_shape"]
    return [
        helper.make_node("Constant", [], [shapes[0]], f"{base}_groups", value_ints=[0, groups, -1]),
        helper.make_node("Reshape", [data, shapes[0]], [f"{base}_grouped"], f"{base}_grouped"),
        helper.make_node(
            "InstanceNormalization", [f"{base}_grouped", scale, bias], [f"{base}_normalized"], node.name,
            epsilon=float(settings.get("epsilon", 1e-5)),
        ),
        helper.make_node("Shape", [data], [shapes[1]], f"{base}_shape"),
        helper.make_node("Reshape", [f"{base}_normalized", shapes[1]], list(node.output), f"{base}_restored"),
    ]  # fmt: skip


def _scatter(node: onnx.NodeProto, base: str) -> list[onnx.NodeProto]:
    written = helper.make_node("ScatterElements", list(node.input), list(node.output), node.name)
    written.attribute.extend(node.attribute)
    return [written]


def _upsample(node: onnx.NodeProto, base: str) -> list[onnx.NodeProto]:
    """Position x of the result comes from x / scale, rounded down for ``nearest``."""
    inputs = [node.input[0], "", node.input[1]]
    written = helper.make_node(
        "Resize", inputs, list(node.output), node.name,
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    written.attribute.extend(node.attribute)
    return [written]


#: operator -> (the opset that deprecated it, the one that defined it anew, how it is written)
_REPLACED: dict[str, tuple[int, int, _Write]] = {
    "GroupNormalization": (18, 21, _group_normalization),
    "Scatter": (11, 1 << 31, _scatter),
    "Upsample": (11, 1 << 31, _upsample),
}


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _graphs(body)
