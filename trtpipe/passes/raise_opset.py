"""Raise a model's opset with ONNX's own version converter."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from trtpipe.errors import StageError


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
    result.ir_version = max(
        result.ir_version, onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", least)])
    )
    return result
