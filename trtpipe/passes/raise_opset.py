"""Raise a model's opset with ONNX's own version converter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from trtpipe.errors import StageError
from trtpipe.passes.operators import is_standard

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Since this opset Resize has a choice of coordinates, whose default is not what it did before.
_RESIZE_MODES = 11
#: Bytes of a constant whose values no conversion depends on.
_LARGE = 1024


def raise_opset(model: ir.Model, least: int) -> ir.Model:
    """A model at opset ``least`` or above; ``model`` itself if it is there already.

    The converter is native code and works on a whole protobuf, so the caller runs it in a child process and only on
    models below protobuf's 2 GB.

    Raises:
        StageError: the converter does not know how; the message carries its reason.
    """
    current = model.graph.opset_imports.get("", 0)
    if current >= least:
        return model
    proto, weights = _without_weights(model)
    try:
        raised = onnx.version_converter.convert_version(proto, least)
    except (
        RuntimeError,
        ValueError,
        onnx.onnx_cpp2py_export.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise StageError(
            f"opset {current} cannot be raised to {least}: {reason}", "export the model again at a later opset"
        ) from error
    result = ir.serde.deserialize_model(raised)
    _restore_weights(result.graph, weights, tuple(model.graph.initializers))
    result.graph.name = model.graph.name
    if current < _RESIZE_MODES <= least:
        _resize_as_before(result)
    result.ir_version = max(
        result.ir_version, onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", least)])
    )
    return result


def _without_weights(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """The protobuf with inputs in place of large constants, of which the converter would make several copies; and these
    constants.
    """
    graph = model.graph
    given = {value.name for value in graph.inputs}
    tensors = {name: value.const_value for name, value in graph.initializers.items() if name not in given}
    large = {name: each for name, each in tensors.items() if each is not None and each.nbytes > _LARGE}
    nothing = ir.tensor([0.0])
    try:
        for name in large:
            graph.initializers[name].const_value = nothing
        proto = ir.serde.serialize_model(model)
    finally:
        for name, tensor in large.items():
            graph.initializers[name].const_value = tensor
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in large]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    for name, tensor in large.items():
        info = onnx.helper.make_tensor_value_info(name, int(tensor.dtype), tensor.shape.numpy())
        proto.graph.input.append(info)
    return proto, large


def _restore_weights(graph: ir.Graph, weights: Mapping[str, ir.TensorProtocol], order: tuple[str, ...]) -> None:
    """Make constants again of the inputs in their place, in the order that all constants had."""
    for value in [each for each in graph.inputs if each.name in weights]:
        graph.inputs.remove(value)
        value.const_value = weights[str(value.name)]
        graph.register_initializer(value)
    found = dict(graph.initializers)
    graph.initializers.clear()
    for name in dict.fromkeys([*(each for each in order if each in found), *found]):
        graph.register_initializer(found[name])


def _resize_as_before(model: ir.Model) -> None:
    """Write the coordinates of Upsample, and of Resize at opset 10, where the converter leaves the new default.

    ONNX defines Upsample so that position x of the result comes from x / scale, rounded down for ``nearest``.
    """
    for node in model.graph.all_nodes():
        if node.op_type != "Resize" or not is_standard(node):
            continue
        for name, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")):
            if name not in node.attributes:
                node.attributes[name] = ir.AttrString(name, value)
