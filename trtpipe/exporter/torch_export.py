"""The work of ``export`` on PyTorch programs, done in a child process: from a module to ``model.onnx``."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe.config.requirements import install
from trtpipe.errors import HostError, InputError, StageError, text_of
from trtpipe.exporter.arrays import array_of, tensor_of
from trtpipe.exporter.calling import (
    Call,
    Tensors,
    bound,
    call_of,
    call_of_tensors,
    dynamic_axes,
    left_out,
    numbered_outputs,
    output_names,
)
from trtpipe.exporter.context import exporting
from trtpipe.exporter.decompositions import batch_notes, decomposed
from trtpipe.exporter.loading import Example, load_program, torch, unwrapped
from trtpipe.exporter.naming import (
    check_dynamic,
    name_dimensions,
    name_interface,
    separate_outputs,
)
from trtpipe.exporter.node_names import keep_lines_alone, name_nodes
from trtpipe.exporter.outside_state import refuse_outside_state
from trtpipe.exporter.places import place_of_error
from trtpipe.exporter.refusals import Failure, export_error, refuse_scripted
from trtpipe.exporter.request import MODEL, ExportReply, TorchRequest
from trtpipe.exporter.saved_program import of_tensors, saved_call, saved_result, unread_notes
from trtpipe.exporter.state import (
    copied,
    random_error,
    refuse_saved_state,
    refuse_state,
    restored,
    run_stateless,
)
from trtpipe.exporter.structure import dotted, tensors_in
from trtpipe.isolation.file_tracking import FileTracker
from trtpipe.isolation.worker import Report
from trtpipe.passes.empty_rows import AskMasks
from trtpipe.passes.widen_half_formats import WidenHalfFormats, half_formats_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_ir as ir

    from trtpipe.artifact import Feed
    from trtpipe.report.stage_records import ExportRecord

#: Largest accepted difference between PyTorch and the exported graph, relative to the output's largest magnitude.
_PARITY = 1e-3
#: The same for a module in 16 bits: in roundings to its format, which PyTorch does after every operator.
_ROUNDINGS = 16
_WIDE = "the graph has its weights in float32, and the precision of the build decides"
#: ONNX's operators that draw random numbers.
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


def export_program(request: TorchRequest, report: Report) -> ExportReply:
    """Load a factory or a ``.pt2`` file and export it. Runs in a child process.

    Raises:
        InputError: the factory cannot be found, raises, or returns no module; shapes do not fit.
        StageError: the program cannot be exported, or the exported graph differs from PyTorch.
    """
    return load_and_export(request, report, export_module)


def load_and_export(
    request: TorchRequest,
    report: Report,
    export: Callable[[object, Example | None, TorchRequest], ExportReply],
) -> ExportReply:
    """Load the program and ``export`` it; the reply tells what the user's code read."""
    report("load", 0, None)
    with FileTracker(Path(request.workdir)) as tracker:
        program, example = load_program(request.module, request.function)
        report("export", 0, None)
        reply = export(program, example, request)
    return reply.model_copy(update={"observed": tracker.observed()})


def export_module(module: object, examples: object | None, request: TorchRequest) -> ExportReply:
    """Export a module or an exported program to ``model.onnx`` in the request's work folder.

    The module is exported in eval mode; its training state, buffers and attributes are restored.

    Args:
        examples: what a factory may return beside the module; ``None`` for zeros of the request's shapes.

    Raises:
        InputError: not a module; example inputs are missing or do not fit the shapes.
        StageError: torch.export or the ONNX exporter fails; the module keeps state or draws random numbers; or the
            graph's outputs differ from PyTorch's.
    """
    from trtpipe.exporter.onnx_import import export_record
    from trtpipe.preflight.onnx_io import save_model

    exported = to_program(module, examples, request)
    with exporting(unwrapped(module)):
        model = _to_onnx(exported, request)
    half_formats = half_formats_in(
        model
    )  # onnxruntime has no Conv or Gemm in bfloat16, and all precisions start from float32
    WidenHalfFormats(half_formats).call(model)
    AskMasks(written_by_torch=True).call(model)
    half = max(half_formats, key=lambda form: form.rounding, default=None)
    name_nodes(model, exported.inner)
    keep_lines_alone(model)
    separate_outputs(model)
    name_interface(model, request.input_names or exported.inputs, request.output_names or exported.outputs)
    name_dimensions(model)
    check_dynamic(((value.name or "", tuple(value.shape or ())) for value in model.graph.inputs), request)
    path = Path(request.workdir) / MODEL
    names = save_model(model, path)
    record = export_record(model, f"torch {torch.__version__} (torch.export)")
    notes = (
        exported.notes if half is None else (*exported.notes, f"{exported.what} computes in {half.storage}; {_WIDE}")
    )
    record = record.model_copy(update={"notes": notes, "half": half})
    if exported.reference is not None:
        if random := sorted({node.op_type for node in model.graph.all_nodes()} & _RANDOM):
            raise random_error(exported.what, dict.fromkeys(random))
        allowed = _PARITY if half is None else _ROUNDINGS * half.rounding
        record = record.model_copy(update={"parity": _parity(path, exported, allowed)})
    names, record = _settled(model, names, record, path, request)
    record.write(path.with_name(f"{MODEL}.json"))
    return ExportReply(names=names)


def _settled(
    model: ir.Model, names: tuple[str, ...], record: ExportRecord, path: Path, request: TorchRequest
) -> tuple[tuple[str, ...], ExportRecord]:
    """The model with quantizers as TensorRT takes them, as PyTorch's own tools (pt2e) leave them in a program."""
    from trtpipe.exporter.onnx_import import node_count, weight_bytes
    from trtpipe.exporter.precisions import is_quantized, settle_quantizers
    from trtpipe.preflight.onnx_io import save_model

    if not request.requantize and not is_quantized(model):
        return names, record
    notes = list(record.notes)
    settled = settle_quantizers(model, notes, requantize=request.requantize)
    changes = {"nodes": node_count(settled), "weight_bytes": weight_bytes(settled), "notes": tuple(notes)}
    opset = settled.graph.opset_imports.get("", record.opset)
    return save_model(settled, path), record.model_copy(update={**changes, "opset": opset})


@dataclass(frozen=True)
class Exported:
    """A program and how it was exported.

    Attributes:
        inputs, outputs: names of its tensors.
        tensors: the example inputs; empty for a program that came exported.
        reference: the module's own outputs for them; ``None`` for a program that came exported.
        what: its name in messages.
        module: what was exported; ``None`` for a program that came exported.
        inner: the path of the user's module in the program.
        notes: what of the module's interface became a constant or was left out.
    """

    program: torch.export.ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    what: str
    tensors: tuple[torch.Tensor, ...] = ()
    reference: tuple[torch.Tensor, ...] | None = None
    module: torch.nn.Module | None = None
    inner: str = ""
    notes: tuple[str, ...] = ()


def to_program(module: object, examples: object | None, request: TorchRequest) -> Exported:
    """Export a module with torch.export, in eval mode; an exported program is returned as it is.

    The program takes and returns tensors alone, in the order of their names.

    Raises:
        InputError: not a module; example inputs are missing or do not fit the shapes.
        StageError: torch.export fails; or the module keeps state between calls or draws random numbers.
    """
    if isinstance(module, torch.export.ExportedProgram):
        with exporting(None):
            refuse_saved_state(module)
            call, result = saved_call(module), saved_result(module)
            outputs = output_names(result, call.names)
            notes = (*_notes(call, result, outputs, request), *unread_notes(module, call.names), *batch_notes(module))
            return Exported(of_tensors(module), call.names, outputs, "the program", notes=notes)
    module = unwrapped(module)
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"expected an nn.Module, got {type(module).__name__}", "return an nn.Module from the factory")
    refuse_scripted(module)
    what = type(module).__name__
    example = example_of(module, examples)
    with exporting(module), restored(module):
        call = call_of(module, example, request)
        _forward(module, prepared := call.with_copies())  # in its first call a module may prepare itself
        result, written = run_stateless(module, call.with_copies)
        reference = tensors_in(result)
        if not reference:
            raise InputError(f"{what}.forward returns no tensors", "return at least one tensor")
        with restored(module):
            program = _program(module, call, request)
        refuse_state(module, program, written)
        refuse_outside_state(module, program, call.with_copies, result)
    names = output_names(result, call.names)
    notes = (*_notes(call, result, names, request), *_written_notes(prepared), *batch_notes(program))
    return Exported(program, call.names, names, what, call.tensors, reference, module, Tensors.INNER, notes)


def example_of(module: object, given: object | None) -> Example | None:
    """Example inputs as a factory returns them, or as a caller holds them beside a module; ``None`` for none."""
    module = unwrapped(module)
    if given is None or isinstance(given, Example) or not isinstance(module, torch.nn.Module):
        return given if isinstance(given, Example) else None
    return Example.of(module, given)


def _notes(call: Call, result: object, outputs: Sequence[str], request: TorchRequest) -> tuple[str, ...]:
    """What of the interface becomes a constant, is left out, or is called otherwise than in the module."""
    fixed = [f"argument {text} is a constant of the model" for text in call.constants()]
    missing = [(dotted(leaf.path), type(leaf.value).__name__) for leaf in left_out(result)]
    renamed = () if request.output_names else numbered_outputs(result, outputs)
    return (
        *fixed,
        *(f"output {path} is left out: it is no tensor but a {kind}" for path, kind in missing),
        *(f"output {path} is called {name}: another input or output has its name" for path, name in renamed),
    )


def _written_notes(call: Call) -> tuple[str, ...]:
    """Of the arguments that a call has written in place."""
    written = [name for name, tensor in zip(call.names, call.tensors, strict=True) if tensor._version]
    return tuple(
        f"input {name} is written in place by forward; an engine leaves its inputs as they are: return the new value "
        "where it is needed"
        for name in written
    )


def run_module(program: object, example: Example | None, feeds: Sequence[Feed], outputs: Sequence[str]) -> list[Feed]:
    """PyTorch's own outputs, feed by feed, under the names of the exported model.

    Args:
        program: an ``nn.Module`` or an exported program.
        example: how the module is called; ``None`` where names or positions of the feeds tell.
        feeds: arrays by the exported model's input names, in its order.
        outputs: the exported model's outputs, in order.

    Raises:
        InputError: ``forward`` fails on a sample.
    """
    saved = program if isinstance(program, torch.export.ExportedProgram) else None
    module = unwrapped(program) if saved is None else saved.module()
    assert isinstance(module, torch.nn.Module)
    found: list[Feed] = []
    for feed in feeds:
        tensors = {name: tensor_of(value) for name, value in feed.items()}
        call = _call_with(module, example, tensors) if saved is None else _filled(saved_call(saved), tensors)
        with exporting(module), restored(module):
            result = _forward(module, call)
        tensors_out = zip(outputs, tensors_in(result), strict=True)
        found.append({name: array_of(tensor) for name, tensor in tensors_out})
    return found


def _call_with(module: torch.nn.Module, example: Example | None, tensors: dict[str, torch.Tensor]) -> Call:
    if example is None or example.empty:
        return call_of_tensors(module, tensors)
    return _filled(bound(module, example), tensors)


def _filled(call: Call, tensors: dict[str, torch.Tensor]) -> Call:
    """The call with these tensors: by their names, or by position where they have names of the user's."""
    known = call.names if set(call.names) == set(tensors) else tuple(tensors)
    return call.with_tensors([tensors[name] for name in known])


def _forward(module: torch.nn.Module, call: Call) -> object:
    try:
        return copied(call.run(module))
    except Exception as error:
        place = place_of_error(error)
        raise InputError(
            f"{type(module).__name__}.forward fails on its example inputs ({call}): {text_of(error)}"
            + (f" (at {place})" if place is not None else ""),
            "give example inputs and shapes the module accepts",
        ) from error


def _program(module: torch.nn.Module, call: Call, request: TorchRequest) -> torch.export.ExportedProgram:
    """Not done by the ONNX exporter: it would keep a size dynamic although the code branches on it."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # torch prints the graph that it could not finish
            return torch.export.export(Tensors(module, call), call.tensors, dynamic_shapes=dynamic_axes(call, request))
    except Exception as error:
        raise export_error(type(module).__name__, Failure(module, error)) from error


def _to_onnx(exported: Exported, request: TorchRequest) -> ir.Model:
    try:
        program = decomposed(exported.program)
        made = torch.onnx.export(program, (), dynamo=True, opset_version=request.opset, verbose=False)
    except ImportError as error:
        raise HostError(f"the ONNX exporter of torch needs {error.name!r}", install("torch")) from error
    except Exception as error:
        raise export_error(exported.what, Failure(exported.module, error)) from error
    if made is None:
        raise StageError("torch returned no exported program", "export the model by hand to .onnx")
    return made.model


def _wrong(path: Path) -> str:
    """What to do about outputs that differ. Which of equal values TopK takes is left to whoever computes it."""
    from trtpipe.preflight.onnx_io import read_proto

    wrong = "an operator was exported wrongly: try another --opset, or report it to PyTorch"
    chosen = next((node.name for node in read_proto(path).graph.node if node.op_type == "TopK"), None)
    if chosen is None:
        return wrong
    return (
        f"if TopK {chosen!r} meets equal values (weights that were not trained, or inputs all alike), PyTorch and ONNX "
        f"may choose others of them: give example inputs and weights whose scores differ; else {wrong}"
    )


def _parity(path: Path, exported: Exported, allowed: float) -> tuple[Any, ...]:
    from trtpipe.accuracy.alignment import largest_plain
    from trtpipe.backends.base import load_backend
    from trtpipe.config.settings import Settings
    from trtpipe.exporter.simplification import absolute_gap
    from trtpipe.report.stage_records import OutputDifference

    assert exported.reference is not None
    with load_backend("onnxruntime").open(path, Settings.in_child()) as runner:
        arrays = map(array_of, exported.tensors)
        feed = dict(zip((spec.name for spec in runner.inputs), arrays, strict=True))
        results = runner.infer(feed)
    found = []
    for (name, got), tensor in zip(results.items(), exported.reference, strict=True):
        want = array_of(tensor)
        gap = absolute_gap(want, got)
        largest, mean = (float(gap.max()), float(gap.mean())) if gap.size else (0.0, 0.0)
        scale = max(1.0, largest_plain(want))
        if not largest <= allowed * scale:
            raise StageError(
                f"the exported model differs from PyTorch: output {name!r} by {largest:.3g} (values up to {scale:.3g})",
                _wrong(path),
            )
        found.append(OutputDifference(output=name, max_abs=largest, mean_abs=mean))
    return tuple(found)
