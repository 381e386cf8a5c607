"""The work of ``export`` on an ONNX file, done in a child process: check it and make it self-contained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from trtpipe.backends.worker import Report
from trtpipe.errors import InputError
from trtpipe.onnxfile import blaming, contract_of_proto, load_model, named_dimension, read_proto, save_model
from trtpipe.passes.graph_pass import graphs_of, node_label
from trtpipe.stages.export import MODEL, ExportReply, OnnxRequest
from trtpipe.stages.facts import ExportFacts

if TYPE_CHECKING:
    import onnx_ir as ir

#: Operators outside ONNX's own schemas that TensorRT or onnxruntime bring along.
_KNOWN_DOMAINS = frozenset({"com.microsoft", "trt", "trt.plugins", "ai.onnx.preview.training"})


def copy_checked(request: OnnxRequest, report: Report) -> ExportReply:
    """Check the model with ONNX's checker and copy it with its external data.

    Raises:
        InputError: the file is no valid ONNX model, or uses an operator nobody knows.
    """
    source = Path(request.source)
    with blaming(source):
        return _copy_checked(source, Path(request.workdir) / MODEL, report)


def _copy_checked(source: Path, path: Path, report: Report) -> ExportReply:
    report("check", 0, 2)
    proto = read_proto(source)
    model = load_model(source)
    refuse_unknown_operators(model, source)
    refuse_interface(proto.graph, source)
    try:
        onnx.checker.check_model(str(source))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()) or "no reason given"  # the node's name may stand in a later line
        raise InputError(f"{source}: not a valid ONNX model: {reason}", "correct the node named above") from error
    report("check", 1, 2)
    _open_dimensions(model)
    names = save_model(model, path)
    facts = describe(
        model, f"ONNX file by {proto.producer_name or 'an unknown producer'} {proto.producer_version}".strip()
    )
    facts.model_copy(update={"contract": contract_of_proto(proto)}).write(path.with_name(f"{MODEL}.json"))
    report("check", 2, 2)
    return ExportReply(names=names)


def refuse_unknown_operators(model: ir.Model, source: Path) -> None:
    """Raise InputError for the first operator that is neither ONNX's, nor the model's own, nor a known vendor's."""
    local = {(key[0], key[1]) for key in model.functions}
    for graph in graphs_of(model):
        for node in graph:
            domain = "" if node.domain == "ai.onnx" else node.domain
            if domain in _KNOWN_DOMAINS or (node.domain, node.op_type) in local:
                continue
            opset = model.graph.opset_imports.get(node.domain, model.graph.opset_imports.get(domain, 1))
            if not _has_schema(node.op_type, opset, domain):
                full = f"{domain}::{node.op_type}" if domain else node.op_type
                raise InputError(
                    f"{source}: node {node_label(node)!r} uses the unknown operator {full} (opset {opset})",
                    "replace the operator, or export the model without it",
                )


def refuse_interface(graph: onnx.GraphProto, source: Path) -> None:
    """Raise InputError for an input or output that no engine can have: text, a sequence, an optional, a map."""
    for side, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            kind = value.type.WhichOneof("value") or "tensor_type"
            if kind == "tensor_type" and value.type.tensor_type.elem_type != onnx.TensorProto.STRING:
                continue
            words = "text" if kind == "tensor_type" else f"of kind {kind.removesuffix('_type')}"
            raise InputError(
                f"{source}: {side} {value.name!r} is {words}; engines take and give tensors of numbers only",
                "move that part of the model in front of the engine, or behind it",
            )


def _open_dimensions(model: ir.Model) -> None:
    """Write dimensions that mean "any size" in the one way all tools understand; TensorRT ties equal symbols."""
    import onnx_ir as ir

    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
            value.shape = ir.Shape([named_dimension(dim) for dim in dims])


def describe(model: ir.Model, exporter: str) -> ExportFacts:
    """The facts of a loaded model."""
    from trtpipe.onnxfile import contract_of

    values = [value for graph in graphs_of(model) for value in graph.initializers.values()]
    return ExportFacts(
        exporter=exporter,
        opset=model.graph.opset_imports.get("", 0),
        nodes=sum(len(graph) for graph in graphs_of(model)),
        weight_bytes=sum(value.const_value.nbytes for value in values if value.const_value is not None),
        contract=contract_of(model),
    )


def _has_schema(op_type: str, opset: int, domain: str) -> bool:
    try:
        onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return False
    return True
