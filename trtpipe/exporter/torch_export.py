"""The work of ``export`` on PyTorch programs, done in a child process: from a module to ``model.onnx``."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.errors import HostError, InputError, StageError
from trtpipe.exporter.file_tracking import FileTracker
from trtpipe.exporter.loading import load_program, parameters_of, torch
from trtpipe.exporter.naming import check_dynamic, name_dimensions, name_interface, strip_metadata
from trtpipe.exporter.request import MODEL, ExportReply, TorchRequest
from trtpipe.isolation.worker import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

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
    return load_and_export(request, report, export_module)


def load_and_export(
    request: TorchRequest,
    report: Report,
    export: Callable[[object, tuple[Any, ...] | None, TorchRequest], ExportReply],
) -> ExportReply:
    """Load the program and ``export`` it; the reply tells what the user's code read."""
    report("load", 0, None)
    with FileTracker(Path(request.workdir)) as tracker:
        program, examples = load_program(request.module, request.function)
        report("export", 0, None)
        reply = export(program, examples, request)
    return reply.model_copy(update={"observed": tracker.observed()})


def export_module(module: object, examples: tuple[Any, ...] | None, request: TorchRequest) -> ExportReply:
    """Export a module or an exported program to ``model.onnx`` in the request's work folder.

    The module is exported in eval mode; its training state is restored.

    Raises:
        InputError: not a module; example inputs are missing or do not fit the shapes.
        StageError: torch.export or the ONNX exporter fails; or the graph's outputs differ from PyTorch's.
    """
    from trtpipe.exporter.onnx_import import export_record
    from trtpipe.preflight.onnx_io import save_model

    with keep_recurrent_layers(module):
        exported = to_program(module, examples, request)
        with quiet():
            model = _to_onnx(exported.program, request, exported.what)
    reference, arguments = exported.reference, exported.arguments
    outputs = exported.output_names(len(model.graph.outputs))
    name_interface(model, request.input_names or exported.inputs, request.output_names or outputs)
    name_dimensions(model)
    check_dynamic(((value.name or "", tuple(value.shape or ())) for value in model.graph.inputs), request)
    strip_metadata(model)
    path = Path(request.workdir) / MODEL
    names = save_model(model, path)
    record = export_record(model, f"torch {torch.__version__} (torch.export)")
    if reference is not None:
        record = record.model_copy(update={"parity": _parity(path, arguments, reference)})
    record.write(path.with_name(f"{MODEL}.json"))
    return ExportReply(names=names)


@dataclass(frozen=True)
class Exported:
    """A program and how it was exported.

    Attributes:
        inputs: the names of forward's arguments.
        arguments: the example inputs; empty for a program that came exported.
        reference: the module's own outputs for them; ``None`` for a program that came exported.
        what: its name in messages.
    """

    program: torch.export.ExportedProgram
    inputs: tuple[str, ...]
    arguments: dict[str, torch.Tensor]
    reference: object | None
    what: str

    def output_names(self, count: int) -> tuple[str, ...]:
        """The keys of a returned dict, else ``output``, ``output_1``."""
        if isinstance(self.reference, dict):
            keys = tuple(str(key) for key, value in self.reference.items() if value is not None)
            if len(keys) == count:
                return keys
        return tuple("output" if index == 0 else f"output_{index}" for index in range(count))


def to_program(module: object, examples: tuple[Any, ...] | None, request: TorchRequest) -> Exported:
    """Export a module with torch.export, in eval mode; an exported program is returned as it is.

    Raises:
        InputError: not a module; example inputs are missing or do not fit the shapes.
        StageError: torch.export fails.
    """
    if isinstance(module, torch.export.ExportedProgram):
        return Exported(module, tuple(module.graph_signature.user_inputs), {}, None, "the program")
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"expected an nn.Module, got {type(module).__name__}", "return an nn.Module from the factory")
    with eval_mode(module), torch.no_grad(), quiet():
        arguments = _arguments(module, examples, request)
        reference = _forward(module, arguments)
        program = _program(module, arguments, request)
    return Exported(program, tuple(arguments), arguments, reference, type(module).__name__)


def run_module(program: object, feeds: Sequence[Feed], outputs: Sequence[str]) -> list[Feed]:
    """PyTorch's own outputs, feed by feed, under the names of the exported model.

    Args:
        program: an ``nn.Module`` or an exported program.
        feeds: arrays in the order of ``forward``'s arguments.
        outputs: the exported model's outputs, in order.

    Raises:
        InputError: ``forward`` fails on a sample.
    """
    module = program.module() if isinstance(program, torch.export.ExportedProgram) else program
    assert isinstance(module, torch.nn.Module)
    own = not isinstance(program, torch.export.ExportedProgram)  # an exported program cannot change its mode
    found: list[Feed] = []
    with eval_mode(module) if own else contextlib.nullcontext(), torch.no_grad(), quiet():
        for feed in feeds:
            result = _forward(module, {name: torch.from_numpy(value.copy()) for name, value in feed.items()})
            leaves = [x for x in torch.utils._pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
            found.append({name: x.detach().numpy().copy() for name, x in zip(outputs, leaves, strict=True)})
    return found


def _program(
    module: torch.nn.Module, arguments: Mapping[str, torch.Tensor], request: TorchRequest
) -> torch.export.ExportedProgram:
    """Not done by the ONNX exporter: it would keep a size dynamic although the code branches on it."""
    try:
        return torch.export.export(module, tuple(arguments.values()), dynamic_shapes=_dynamic_axes(arguments, request))
    except Exception as error:
        raise export_error(type(module).__name__, error) from error


def _to_onnx(program: torch.export.ExportedProgram, request: TorchRequest, what: str) -> ir.Model:
    try:
        exported = torch.onnx.export(program, (), dynamo=True, opset_version=request.opset, verbose=False)
    except ImportError as error:
        raise HostError(f"the ONNX exporter of torch needs {error.name!r}", "pip install 'trtpipe[torch]'") from error
    except Exception as error:
        raise export_error(what, error) from error
    if exported is None:
        raise StageError("torch returned no exported program", "export the model by hand to .onnx")
    return exported.model


def export_error(
    what: str,
    error: Exception,
    remedy: str = "fix the line named above; data-dependent Python control flow is the usual cause",
) -> StageError:
    """The error for a failure of torch's exporters, with the first line of theirs."""
    lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return StageError(f"torch cannot export {what}: {lines[0]}", remedy)


def _forward(module: torch.nn.Module, arguments: Mapping[str, torch.Tensor]) -> object:
    try:
        return module(*arguments.values())
    except Exception as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in arguments.items())
        raise InputError(
            f"{type(module).__name__}.forward fails on its example inputs ({shapes}): {error}",
            "give example inputs and shapes the module accepts",
        ) from error


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
                "fix a module that keeps state between calls or behaves differently during export; otherwise an "
                "operator was exported wrongly: try another --opset, or report it to PyTorch",
            )
        found.append(OutputDifference(output=name, max_abs=largest, mean_abs=mean))
    return tuple(found)


def _arguments(
    module: torch.nn.Module, examples: tuple[Any, ...] | None, request: TorchRequest
) -> dict[str, torch.Tensor]:
    """Forward's arguments by name: the examples, repeated along dynamic axes, or zeros of the opt shapes.

    Raises:
        InputError: examples are missing, too many, not tensors, or do not fit the shapes.
    """
    parameters = {
        name: parameter
        for name, parameter in parameters_of(module.forward)
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }
    names = list(parameters)
    public = dict(zip(names, request.input_names, strict=False)) if request.input_names else {}
    if examples is None:
        known = list(takewhile(lambda name: public.get(name, name) in request.shapes, names))
        needed = [name for name in names if parameters[name].default is inspect.Parameter.empty] or names[:1]
        missing = [public.get(n, n) for n in needed if public.get(n, n) not in request.shapes]
        if missing or not known:
            raise InputError(
                f"{type(module).__name__}: no example inputs, and no shapes for {', '.join(missing) or 'its inputs'}",
                f"return (module, example_inputs), or add --shapes {(missing or ['x'])[0]}:1x3x224x224",
            )
        examples = tuple(torch.zeros(request.shapes[public.get(name, name)][1]) for name in known)
    if len(examples) > len(names):
        raise InputError(
            f"{type(module).__name__}.forward takes {len(names)} inputs, {len(examples)} examples were given",
            "return one example per argument of forward",
        )
    arguments = {}
    for name, example in zip(names, examples, strict=False):
        if not isinstance(example, torch.Tensor):
            raise InputError(f"example input {name!r} is a {type(example).__name__}, not a tensor", "give tensors")
        arguments[name] = _stretch(name, example, request.shapes.get(public.get(name, name)))
    return arguments


def _dynamic_axes(arguments: Mapping[str, torch.Tensor], request: TorchRequest) -> tuple[dict[int, Any], ...] | None:
    """The dynamic axes of every argument, with their bounds; ``None`` if there are none."""
    public = dict(zip(arguments, request.input_names, strict=False)) if request.input_names else {}
    found = []
    for name in arguments:
        low, _, high = request.shapes.get(public.get(name, name), ((), (), ()))
        auto = torch.export.Dim.AUTO
        found.append({i: auto(min=a, max=b) for i, (a, b) in enumerate(zip(low, high, strict=True)) if a != b})
    return tuple(found) if any(found) else None


def _stretch(name: str, example: torch.Tensor, shape: Sequence[Sequence[int]] | None) -> torch.Tensor:
    """Make every dynamic axis at least 2 long: torch.export treats 0 and 1 as constants."""
    if shape is None:
        return example
    low, opt, high = shape
    if len(low) != example.dim():
        raise InputError(
            f"shapes for {name!r} have rank {len(low)}, its example input has rank {example.dim()}",
            "give shapes of the example's rank",
        )
    for axis, (least, most) in enumerate(zip(low, high, strict=True)):
        wanted = most if least == most else min(most, max(2, least, min(opt[axis], example.shape[axis])))
        if example.shape[axis] != wanted:
            index = torch.arange(wanted) % example.shape[axis]
            example = example.index_select(axis, index)
    return example


@contextlib.contextmanager
def keep_recurrent_layers(module: object) -> Iterator[None]:
    """Inside, LSTM and GRU layers of ``module`` are exported as one operator each.

    torch.export may unroll them, which fixes the sequence length to that of the example and makes hundreds of nodes.
    Its own patches prevent that, where this torch has them (2.13 does).
    """
    parts = module.modules() if isinstance(module, torch.nn.Module) else ()
    with contextlib.ExitStack() as stack:
        if any(isinstance(part, (torch.nn.LSTM, torch.nn.GRU)) for part in parts):
            for patch in _recurrent_patches():
                stack.enter_context(patch)
        yield


def _recurrent_patches() -> Iterator[contextlib.AbstractContextManager[None]]:
    try:
        from torch.export import _patches
    except ImportError:
        return
    for name in ("register_lstm_while_loop_decomposition", "register_gru_while_loop_decomposition"):
        if (patch := getattr(_patches, name, None)) is not None:
            yield patch()


@contextlib.contextmanager
def eval_mode(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside; every submodule's training flag is restored after."""
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings of the exporter, such as those about optional packages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
