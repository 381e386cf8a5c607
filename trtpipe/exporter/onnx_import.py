"""The work of ``export`` on an ONNX file, done in a child process: check it and make it self-contained."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from trtpipe.errors import InputError
from trtpipe.exporter.request import MODEL, ExportReply, OnnxRequest
from trtpipe.isolation.worker import Report
from trtpipe.passes.graph_pass import graphs_of
from trtpipe.preflight.onnx_io import (
    attributed_to,
    contract_of,
    contract_of_proto,
    load_model,
    named_dimension,
    read_proto,
    save_model,
)
from trtpipe.report.stage_records import ExportRecord

if TYPE_CHECKING:
    import onnx_ir as ir


def copy_checked(request: OnnxRequest, report: Report) -> ExportReply:
    """Copy the model with its external data, and run ONNX's checker on the copy.

    Raises:
        InputError: the file is not a valid ONNX model.
    """
    label = Path(request.label)
    with attributed_to(label):
        report("check", 0, 2)
        return _rewritten(Path(request.source), label, Path(request.workdir) / MODEL, report)


def _rewritten(sealed: Path, label: Path, path: Path, report: Report) -> ExportReply:
    proto = read_proto(sealed)
    model = load_model(sealed)
    refuse_interface(proto.graph, label)
    _open_dimensions(model)
    _make_names_unique(model)
    names = save_model(model, path)
    report("check", 1, 2)
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()) or "no reason given"  # the node's name may be in a later line
        raise InputError(f"{label}: not a valid ONNX model: {reason}", "correct the node named above") from error
    record = export_record(
        model, f"ONNX file by {proto.producer_name or 'an unknown producer'} {proto.producer_version}".strip()
    )
    record.model_copy(update={"contract": contract_of_proto(proto)}).write(path.with_name(f"{MODEL}.json"))
    report("check", 2, 2)
    return ExportReply(names=names)


def refuse_interface(graph: onnx.GraphProto, source: Path) -> None:
    """Raise InputError for an input or output that an engine cannot have: text, a sequence, an optional, a map."""
    for side, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            kind = value.type.WhichOneof("value") or "tensor_type"
            if kind == "tensor_type" and value.type.tensor_type.elem_type != onnx.TensorProto.STRING:
                continue
            words = "text" if kind == "tensor_type" else f"of kind {kind.removesuffix('_type')}"
            raise InputError(
                f"{source}: {side} {value.name!r} is {words}; inputs and outputs of engines are tensors of numbers",
                "move that part of the model before or after the engine",
            )


def _open_dimensions(model: ir.Model) -> None:
    """Write dimensions of any size in the form that all tools read; TensorRT takes equal symbols for equal sizes."""
    import onnx_ir as ir

    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
            value.shape = ir.Shape([named_dimension(dim) for dim in dims])


def _make_names_unique(model: ir.Model) -> None:
    """Rename nodes of one graph with equal names: onnxruntime refuses such a graph."""
    for graph in graphs_of(model):
        given = {node.name for node in graph}
        counts: Counter[str | None] = Counter()
        for node in graph:
            name = node.name
            counts[name] += 1
            if not name or counts[name] == 1:
                continue
            while (other := f"{name}_{counts[name]}") in given:
                counts[name] += 1
            node.name = other


def export_record(model: ir.Model, exporter: str) -> ExportRecord:
    """The record of a loaded model."""
    return ExportRecord(
        exporter=exporter,
        opset=model.graph.opset_imports.get("", 0),
        nodes=node_count(model),
        weight_bytes=weight_bytes(model),
        contract=contract_of(model),
    )


def node_count(model: ir.Model) -> int:
    """Number of nodes, in subgraphs too."""
    return sum(len(graph) for graph in graphs_of(model))


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, in subgraphs too."""
    values = (value.const_value for graph in graphs_of(model) for value in graph.initializers.values())
    return sum(value.nbytes for value in values if value is not None)
