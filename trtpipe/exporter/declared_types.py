"""What a model states of types and shapes: completed where it is missing, dropped where it contradicts the nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Constants of more bytes are left out of what shape inference sees: sizes and axes are smaller.
_SMALL = 1024
#: Nodes with bodies beyond which nothing is checked that is stated.
_MANY_BODIES = 1000


def state_types(model: onnx.ModelProto) -> Iterator[str]:
    """Let every output have a type, and its shape where ONNX's shape inference finds one; drop wrong statements.

    Raises:
        InputError: an output is stated to be of another type than its node makes, or of none, and none can be inferred.
    """
    complete = all(output.type.tensor_type.HasField("shape") for output in model.graph.output)
    if complete and sum(_has_body(node) for node in model.graph.node) > _MANY_BODIES:
        return  # shape inference takes time that grows with the square of their number
    inferred = _inferred(model)
    for output in model.graph.output:
        yield from _completed(output, inferred.get(output.name))
    wrong = [value.name for value in model.graph.value_info if _contradicts(value, inferred.get(value.name))]
    for index in reversed(range(len(model.graph.value_info))):
        if model.graph.value_info[index].name in wrong:
            del model.graph.value_info[index]
    if wrong:
        yield f"the stated shape of {', '.join(sorted(wrong)[:5])} was dropped: the nodes make another"


def _has_body(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _inferred(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """What follows from inputs, constants and nodes alone: name -> its type; without those of which nothing follows."""
    graph = onnx.GraphProto(name=model.graph.name, node=model.graph.node, input=model.graph.input)
    graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in model.graph.output)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= _SMALL and not tensor.external_data:
            graph.initializer.append(tensor)
        else:
            graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    light = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions, graph=graph
    )
    try:
        found = onnx.shape_inference.infer_shapes(light).graph
    except (
        RuntimeError,
        ValueError,
        onnx.shape_inference.InferenceError,
    ):  # so nothing is contradicted
        return {}
    given: Iterable[onnx.ValueInfoProto] = (*model.graph.input, *found.value_info, *found.output)
    known = {value.name: value for value in given if value.type.WhichOneof("value")}
    for tensor in model.graph.initializer:
        known.setdefault(tensor.name, onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return known


def _completed(output: onnx.ValueInfoProto, found: onnx.ValueInfoProto | None) -> Iterator[str]:
    """State what is missing of an output."""
    if output.type.WhichOneof("value") not in (None, "tensor_type"):
        return  # refused by its own name
    tensor = output.type.tensor_type
    stated = tensor.elem_type
    kind = found.type.tensor_type.elem_type if found is not None else 0
    if found is not None and found.type.WhichOneof("value") != "tensor_type":
        output.type.CopyFrom(found.type)
        return
    if stated and kind and stated != kind:
        words = (onnx.TensorProto.DataType.Name(each).lower() for each in (stated, kind))
        raise InputError(
            "output {!r} is stated to be {}, and the node that makes it makes {}".format(output.name, *words),
            "state the type that the node makes, or none",
        )
    if not stated and not kind:
        raise InputError(
            f"output {output.name!r} has no type, and none follows from the operators before it",
            "state the types of the model's outputs",
        )
    if not stated:
        tensor.elem_type = kind
        yield f"the type of output {output.name!r} was inferred: {onnx.TensorProto.DataType.Name(kind).lower()}"
    if found is None or not found.type.tensor_type.HasField("shape"):
        return
    if not tensor.HasField("shape"):
        tensor.shape.CopyFrom(found.type.tensor_type.shape)
        yield f"the shape of output {output.name!r} was inferred"
    elif _contradicts(output, found):
        tensor.shape.CopyFrom(found.type.tensor_type.shape)
        yield f"the stated shape of output {output.name!r} was dropped: the nodes make another"


def _contradicts(value: onnx.ValueInfoProto, found: onnx.ValueInfoProto | None) -> bool:
    """Whether the stated shape cannot be that of what the nodes make."""
    if found is None:
        return False
    stated, made = value.type.tensor_type, found.type.tensor_type
    if not stated.HasField("shape") or not made.HasField("shape"):
        return False
    if len(stated.shape.dim) != len(made.shape.dim):
        return True
    pairs = zip(stated.shape.dim, made.shape.dim, strict=True)
    return any(a.dim_value > 0 and b.HasField("dim_value") and a.dim_value != b.dim_value for a, b in pairs)
