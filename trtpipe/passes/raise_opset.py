"""Raise a model's opset with ONNX's own version converter."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from trtpipe.errors import StageError
from trtpipe.passes.operators import is_standard

#: Since this opset Resize has a choice of coordinates, whose default is not what it did before.
_RESIZE_MODES = 11


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
    proto = ir.serde.serialize_model(model)
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
    result.graph.name = model.graph.name
    if current < _RESIZE_MODES <= least:
        _resize_as_before(result)
    result.ir_version = max(
        result.ir_version, onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", least)])
    )
    return result


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
