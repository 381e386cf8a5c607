"""The work of ``export`` on PyTorch programs: the one module, with the torch-tensorrt room, that imports torch."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.errors import HostError, InputError, StageError
from trtpipe.exporter.contexts import evaluating, quiet, whole_recurrent_layers
from trtpipe.exporter.dynamic_shapes import arguments_of, dynamic_axes
from trtpipe.exporter.file_tracking import Reading
from trtpipe.exporter.loading import load_program, torch
from trtpipe.exporter.naming import name_dimensions, name_interface, refuse_frozen, strip
from trtpipe.exporter.request import MODEL, ExportReply, TorchRequest
from trtpipe.isolation.worker import Report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from trtpipe.artifact import Feed

#: Largest accepted difference between PyTorch and the exported graph, relative to the output's largest magnitude.
_PARITY = 1e-3


def export_program(request: TorchRequest, report: Report) -> ExportReply:
    """Load a factory or a ``.pt2`` file and export it. Runs in a child process.

    Raises:
        InputError: the factory cannot be found, raises, or returns no module; shapes do not fit.
        StageError: the program cannot be exported, or the exported graph differs from PyTorch.
    """
    report("load", 0, None)
    with Reading(Path(request.workdir)) as reading:
        program, examples = load_program(request.module, request.function)
        report("export", 0, None)
        reply = export_module(program, examples, request)
    return reply.model_copy(update={"files_read": reading.files()})


def export_module(module: object, examples: tuple[Any, ...] | None, request: TorchRequest) -> ExportReply:
    """Export a module or an exported program to ``model.onnx`` in the request's work folder.

    The module is put into eval mode for the export and gets its training state back.

    Raises:
        InputError: not a module; example inputs are missing or do not fit the shapes.
        StageError: torch.export or the ONNX exporter gives up; or the graph's outputs differ from PyTorch's.
    """
    from trtpipe.exporter.onnx_import import describe
    from trtpipe.preflight.onnx_io import save_model

    with whole_recurrent_layers(module):
        exported = to_program(module, examples, request)
        with quiet():
            model = _to_onnx(exported.program, request, exported.what)
    reference, arguments = exported.reference, exported.arguments
    outputs = exported.output_names(len(model.graph.outputs))
    name_interface(model, request.input_names or exported.inputs, request.output_names or outputs)
    name_dimensions(model)
    refuse_frozen(((value.name or "", tuple(value.shape or ())) for value in model.graph.inputs), request)
    strip(model)
    path = Path(request.workdir) / MODEL
    names = save_model(model, path)
    facts = describe(model, f"torch {torch.__version__} (torch.export)")
    if reference is not None:
        facts = facts.model_copy(update={"parity": _parity(path, arguments, reference)})
    facts.write(path.with_name(f"{MODEL}.json"))
    return ExportReply(names=names)


@dataclass(frozen=True)
class Exported:
    """A program, and what is known of it beside.

    Attributes:
        inputs: the names of forward's arguments.
        arguments: what it was exported with; empty for a program that came exported.
        reference: what the module itself answered to them, then ``None``.
        what: how people name it.
    """

    program: torch.export.ExportedProgram
    inputs: tuple[str, ...]
    arguments: dict[str, torch.Tensor]
    reference: object | None
    what: str

    def output_names(self, count: int) -> tuple[str, ...]:
        """The keys of a returned dict, else ``output``, ``output_1``."""
        return _output_names(self.reference, count)


def to_program(module: object, examples: tuple[Any, ...] | None, request: TorchRequest) -> Exported:
    """Export a module with torch.export, in eval mode; a program is taken as it is.

    Raises:
        InputError: not a module; example inputs are missing or do not fit the shapes.
        StageError: torch.export gives up.
    """
    if isinstance(module, torch.export.ExportedProgram):
        return Exported(module, tuple(module.graph_signature.user_inputs), {}, None, "the program")
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"expected an nn.Module, got {type(module).__name__}", "return an nn.Module from the factory")
    with evaluating(module), torch.no_grad(), quiet():
        arguments = arguments_of(module, examples, request)
        reference = _forward(module, arguments)
        program = _program(module, arguments, request)
    return Exported(program, tuple(arguments), arguments, reference, type(module).__name__)


def run_module(program: object, feeds: Sequence[Feed], outputs: Sequence[str]) -> list[Feed]:
    """What PyTorch itself computes, feed by feed, under the names the exported model has.

    Args:
        program: an ``nn.Module`` or an exported program.
        feeds: arrays in the order of ``forward``'s arguments.
        outputs: the exported model's outputs, in order.

    Raises:
        InputError: ``forward`` fails on a sample.
    """
    module = program.module() if isinstance(program, torch.export.ExportedProgram) else program
    assert isinstance(module, torch.nn.Module)
    own = not isinstance(program, torch.export.ExportedProgram)  # an exported one refuses to change its mode
    found: list[Feed] = []
    with evaluating(module) if own else contextlib.nullcontext(), torch.no_grad(), quiet():
        for feed in feeds:
            answer = _forward(module, {name: torch.from_numpy(value.copy()) for name, value in feed.items()})
            leaves = [x for x in torch.utils._pytree.tree_leaves(answer) if isinstance(x, torch.Tensor)]
            found.append({name: x.detach().numpy().copy() for name, x in zip(outputs, leaves, strict=True)})
    return found


def _program(
    module: torch.nn.Module, arguments: Mapping[str, torch.Tensor], request: TorchRequest
) -> torch.export.ExportedProgram:
    """Not left to the ONNX exporter, which would keep a size dynamic although the code branches on it."""
    try:
        return torch.export.export(module, tuple(arguments.values()), dynamic_shapes=dynamic_axes(arguments, request))
    except Exception as error:
        raise _refusal(type(module).__name__, error) from error


def _to_onnx(program: torch.export.ExportedProgram, request: TorchRequest, what: str) -> ir.Model:
    try:
        exported = torch.onnx.export(program, (), dynamo=True, opset_version=request.opset, verbose=False)
    except ImportError as error:
        raise HostError(f"the ONNX exporter of torch needs {error.name!r}", "pip install 'trtpipe[torch]'") from error
    except Exception as error:
        raise _refusal(what, error) from error
    if exported is None:
        raise StageError("torch returned no exported program", "export the model by hand to .onnx")
    return exported.model


def _refusal(what: str, error: Exception) -> StageError:
    lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return StageError(
        f"torch cannot export {what}: {lines[0]}",
        "fix the line named above; data-dependent Python control flow is the usual cause",
    )


def _forward(module: torch.nn.Module, arguments: Mapping[str, torch.Tensor]) -> object:
    try:
        return module(*arguments.values())
    except Exception as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in arguments.items())
        raise InputError(
            f"{type(module).__name__}.forward fails on its example inputs ({shapes}): {error}",
            "give example inputs and shapes the module accepts",
        ) from error


def _output_names(reference: object, count: int) -> tuple[str, ...]:
    if isinstance(reference, dict):
        keys = tuple(str(key) for key, value in reference.items() if value is not None)
        if len(keys) == count:
            return keys
    return tuple("output" if index == 0 else f"output_{index}" for index in range(count))


def _parity(path: Path, arguments: Mapping[str, torch.Tensor], reference: object) -> tuple[Any, ...]:
    from trtpipe.backends.base import load_backend
    from trtpipe.config.settings import Settings
    from trtpipe.report.stage_records import OutputDifference

    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(reference) if isinstance(leaf, torch.Tensor)]
    with load_backend("onnxruntime").open(path, Settings.in_child()) as runner:
        feed = dict(zip((spec.name for spec in runner.inputs), (a.numpy() for a in arguments.values()), strict=True))
        results = runner.infer(feed)
    found = []
    for (name, got), tensor in zip(results.items(), tensors, strict=True):
        want = tensor.detach().numpy().astype(np.float64)
        gap = np.abs(got.astype(np.float64) - want)
        largest, mean = (float(gap.max()), float(gap.mean())) if gap.size else (0.0, 0.0)
        scale = max(1.0, float(np.abs(want).max())) if want.size else 1.0
        if not largest <= _PARITY * scale:
            raise StageError(
                f"the exported model differs from PyTorch: output {name!r} by {largest:.3g} (values up to {scale:.3g})",
                "fix a module that keeps state between calls or computes otherwise while it is exported; else an "
                "operator was translated wrongly: try another --opset, or report it to PyTorch",
            )
        found.append(OutputDifference(output=name, max_abs=largest, mean_abs=mean))
    return tuple(found)
