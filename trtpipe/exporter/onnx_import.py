"""The work of ``export`` on an ONNX file, done in a child process: check it and make it self-contained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from trtpipe.errors import InputError, StageError
from trtpipe.exporter.precisions import settle_half_formats, settle_quantizers
from trtpipe.exporter.repairs import repair, settle_defaults
from trtpipe.exporter.request import MODEL, ExportReply, OnnxRequest
from trtpipe.isolation.worker import Report
from trtpipe.passes.contrib_operators import WriteContribOperators, unwritten
from trtpipe.passes.graph_pass import graphs_of, run_passes
from trtpipe.passes.infer_types import InferTypes
from trtpipe.passes.plugins import plugin_nodes
from trtpipe.passes.sequences import varying_sequence
from trtpipe.preflight.checks import STRAY
from trtpipe.preflight.onnx_io import (
    attributed_to,
    contract_of,
    contract_of_proto,
    model_of,
    named_dimension,
    read_proto,
    save_model,
)
from trtpipe.report.stage_records import ExportRecord

if TYPE_CHECKING:
    import onnx_ir as ir

#: Bodies of If, Loop and Scan in the main graph.
_MOST_BODIES = 5000


def copy_checked(request: OnnxRequest, report: Report) -> ExportReply:
    """Copy the model with its external data, and run ONNX's checker on the copy.

    Raises:
        InputError: the file is not a valid ONNX model.
    """
    label = Path(request.label)
    with attributed_to(label):
        report("check", 0, 2)
        return _rewritten(request, label, Path(request.workdir) / MODEL, report)


def _rewritten(request: OnnxRequest, label: Path, path: Path, report: Report) -> ExportReply:
    sealed = Path(request.source)
    proto = read_proto(sealed, weights=True, repairable=True)
    try:
        notes = [*_name_zeros(proto.graph), *repair(proto), *settle_defaults(proto, request.settings.freeze)]
    except InputError as error:
        raise InputError(f"{label}: {error.message}", error.remedy) from error
    refuse_interface(proto.graph, label)
    _refuse_many_bodies(proto.graph, label)
    model = model_of(proto, sealed)
    _open_dimensions(model)
    _drop_unread_plugins(model)
    try:
        if any(node.op_type in STRAY for node in model.graph.all_nodes()):  # onnxruntime has them in ONNX's domain only
            run_passes(model, (InferTypes(), WriteContribOperators()))
        model = settle_quantizers(model, notes, requantize=request.settings.requantize)
        if (reason := unwritten(model)) is not None:
            raise StageError(reason, "export the model without onnxruntime's optimizer, or replace the operator")
        if (reason := varying_sequence(model)) is not None:
            raise StageError(
                reason,
                "write it as a Gather from one tensor with an axis for the elements, or give a constant position",
            )
    except StageError as error:
        raise StageError(f"{label}: {error.message}", error.remedy) from error
    settle_half_formats(model, notes, request.settings.kept)
    names = save_model(model, path)
    report("check", 1, 2)
    try:
        _run_checker(path)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()) or "no reason given"  # the node's name may be in a later line
        raise InputError(f"{label}: not a valid ONNX model: {reason}", "correct the node named above") from error
    record = export_record(
        model, f"ONNX file by {proto.producer_name or 'an unknown producer'} {proto.producer_version}".strip()
    )
    record = record.model_copy(update={"contract": contract_of_proto(proto), "notes": tuple(notes)})
    record.write(path.with_name(f"{MODEL}.json"))
    report("check", 2, 2)
    return ExportReply(names=names)


def _run_checker(path: Path) -> None:
    """Run ONNX's checker, which wants a shape of every input and output, even where none can be told."""
    light = onnx.load(path, load_external_data=False)
    tensors = [value.type.tensor_type for value in (*light.graph.input, *light.graph.output)]
    shapeless = [tensor for tensor in tensors if not tensor.HasField("shape")]
    if not shapeless:
        onnx.checker.check_model(str(path))
        return
    for tensor in shapeless:
        tensor.shape.SetInParent()
    onnx.checker.check_model(light)


def refuse_interface(graph: onnx.GraphProto, source: Path) -> None:
    """Raise InputError for an input or output that an engine cannot have: text, a sequence, an optional, a map, or one
    tensor that is both.
    """
    given = {value.name for value in graph.input}
    for value in graph.output:
        if value.name in given:
            raise InputError(
                f"{source}: output {value.name!r} is an input too; an engine has no two tensors of one name",
                "remove the output from the model, or give it a name of its own with an Identity",
            )
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


def _refuse_many_bodies(graph: onnx.GraphProto, source: Path) -> None:
    """Raise InputError for more bodies than tools get through: their time grows with the square of the number."""
    count = sum(attribute.HasField("g") for node in graph.node for attribute in node.attribute)
    if count > _MOST_BODIES:
        raise InputError(
            f"{source}: its nodes have {count} bodies; {_MOST_BODIES} is the most that shape inference gets through",
            "export the model with fewer branches and loops",
        )


def _name_zeros(graph: onnx.GraphProto) -> list[str]:
    """Name the sizes of inputs that are stated as 0, so that shapes have to be given for them; what was done.

    Some exporters write 0 for "any size", and others were given an empty tensor, of which an engine computes nothing.
    A batch is clear: the first size of an input where no input has a fixed one.
    """
    constant = {tensor.name for tensor in graph.initializer}
    shapes = [(each.name, each.type.tensor_type.shape.dim) for each in graph.input if each.name not in constant]
    batch = all(dims[0].dim_value <= 0 for _, dims in shapes if dims)
    notes = []
    for name, dims in shapes:
        zeros = [at for at, dim in enumerate(dims) if dim.HasField("dim_value") and dim.dim_value == 0]
        named = [at for at in zeros if at or not batch]
        for at in named:
            dims[at].dim_param = f"{name}_size_{at}"
        if named:
            notes.append(
                f"input {name!r} has a size of 0 (dimension {', '.join(map(str, named))}): taken for any size, for "
                "which shapes are needed; if it is always empty, an engine has nothing to compute of it: remove it"
            )
    return notes


def _drop_unread_plugins(model: ir.Model) -> None:
    """Leave out plug-ins whose results nothing reads, as engines do: what they would read is nothing to compare."""
    for node in reversed(plugin_nodes(model)):
        if node.graph is not None and not any(value.uses() or value.is_graph_output() for value in node.outputs):
            node.graph.remove(node, safe=True)


def _open_dimensions(model: ir.Model) -> None:
    """Write dimensions of any size in the form that all tools read; TensorRT takes equal symbols for equal sizes."""
    import onnx_ir as ir

    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
            value.shape = ir.Shape([named_dimension(dim) for dim in dims])


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
