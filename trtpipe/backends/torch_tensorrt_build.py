"""Torch-TensorRT in the worker process: an exported program -> TensorRT's network -> an engine.

Torch-TensorRT lowers the program and converts it to a network, which is built like any other (``trt.builder``), with
the same profiles, options, reports and errors.
"""

from __future__ import annotations

import logging
import os
import re
import time
import types
import warnings
from contextlib import contextmanager, nullcontext
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe.backends.base import installing
from trtpipe.backends.trt.builder import build_network
from trtpipe.backends.trt.errors import Log, tidy
from trtpipe.backends.trt.request import BuildMessage
from trtpipe.config.os_errors import cannot_load
from trtpipe.config.profile import ShapeRange
from trtpipe.config.target import find_target
from trtpipe.engine.record import EngineRecord, ProgramRecord
from trtpipe.errors import BuildError, HostError, TrtpipeError
from trtpipe.isolation.worker import Report

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from trtpipe.artifact import IOContract, TensorSpec

_OTHER_ROUTE = "build through ONNX: --backend tensorrt-rtx or tensorrt"

#: In torch 2.13's message for a program that was saved and loaded and has an input size such as ``s0 + 1``.
_TIED_SIZES = "expected sympy.Symbol"

#: Bytes; the converter compares tensors with it.
_MEMORY = 24 << 30


class _Built(Exception):
    """Carries the result out of Torch-TensorRT, which would load the engine next, and that needs a GPU."""

    def __init__(self, record: EngineRecord) -> None:
        super().__init__("built")
        self.record = record


def build_task(request: BuildMessage, report: Report) -> EngineRecord:
    """Convert and build one program (in the worker process).

    Raises:
        BuildError: the program cannot be converted or built; the message names the operators.
        InputError: the shape ranges do not fit.
        HostError: torch, Torch-TensorRT or its TensorRT cannot be loaded.
        OSError: the plan cannot be written.
    """
    started = time.monotonic()
    contract = ProgramRecord.read(Path(request.model).with_name(f"{Path(request.model).name}.json")).contract
    report("loading torch-tensorrt", 0, None)
    tt = _load(request)
    import torch

    program = torch.export.load(request.model)
    log = _build_instead_of_it(tt, request, report, contract, started)
    logging.getLogger("torch_tensorrt").setLevel(logging.CRITICAL + 1)  # its messages come as exceptions too
    report("converting", 0, None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tt.dynamo.convert_exported_program_to_serialized_trt_engine(
                program,
                arg_inputs=[_spec(tt, torch, each, request.shapes) for each in contract.inputs],
                immutable_weights=True,
                require_full_compilation=True,
            )
    except Exception as error:  # noqa: BLE001 - a converter may raise anything
        return _result(error, request, tt, log)
    raise BuildError(f"{Path(request.model).name}: torch-tensorrt built nothing", _OTHER_ROUTE)


def _load(request: BuildMessage) -> Any:
    try:
        import torch

        capability = find_target(request.targets[0]).capability
        with nullcontext() if torch.cuda.is_available() else _without_gpu(torch, capability):
            import torch_tensorrt

            return torch_tensorrt
    except (ImportError, OSError) as error:
        raise cannot_load("torch-tensorrt", error, installing("torch-tensorrt")) from error


@contextmanager
def _without_gpu(torch: Any, capability: tuple[int, int]) -> Iterator[None]:
    """Import torch-tensorrt-rtx inside this, on a machine where PyTorch has no CUDA (worker processes only).

    The package asks for the current GPU on import and while it converts. For the rest of this process such questions
    are answered for a GPU of ``capability``. Its C++ runtime, which needs libtorch_cuda, is hidden: the package works
    without the file. Nothing is emulated: TensorRT-RTX needs no GPU to build.
    """
    answers: dict[str, Any] = {
        "get_device_capability": lambda *_: capability,
        "current_device": lambda: 0,
        "get_device_properties": lambda *_: types.SimpleNamespace(
            name="build target", major=capability[0], minor=capability[1], total_memory=_MEMORY,
            multi_processor_count=1, uuid="build target",
        ),
        "mem_get_info": lambda *_: (_MEMORY, _MEMORY),
        "device_count": lambda: 1,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    if not hasattr(torch._C, "_CudaDeviceProperties"):  # named in an annotation; PyTorch without CUDA lacks it
        torch._C._CudaDeviceProperties = type("_CudaDeviceProperties", (), {})
    real = os.path.isfile

    def isfile(path: Any) -> bool:
        return "libtorchtrt" not in os.fspath(path) and real(path)

    os.path.isfile = isfile
    try:
        yield
    finally:
        os.path.isfile = real


def _spec(tt: Any, torch: Any, spec: TensorSpec, profiles: tuple[Mapping[str, ShapeRange], ...]) -> Any:
    dtype = getattr(torch, spec.dtype)
    fixed = tuple(dim for dim in spec.shape or () if isinstance(dim, int))
    if len(fixed) == len(spec.shape or ()):
        return tt.Input(shape=fixed, dtype=dtype)
    whole = reduce(ShapeRange.joined, [profile[spec.name] for profile in profiles if spec.name in profile])
    if whole.min == whole.max:
        return tt.Input(shape=whole.opt, dtype=dtype)
    return tt.Input(min_shape=whole.min, opt_shape=whole.opt, max_shape=whole.max, dtype=dtype)


def _build_instead_of_it(tt: Any, request: BuildMessage, report: Report, contract: IOContract, started: float) -> Log:
    """Have Torch-TensorRT stop once its network is complete, and build that here; the log of TensorRT's messages."""
    try:
        from torch_tensorrt.dynamo.conversion import _TRTInterpreter as conversion

        trt, interpreter = conversion.trt, conversion.TRTInterpreter
        log = Log(trt)
        conversion.TRT_LOGGER = log.logger
        construct = interpreter._construct_trt_network_def
        interpreter.run  # noqa: B018 - replaced below
    except (ImportError, AttributeError) as error:
        raise HostError(
            f"torch-tensorrt {tt.__version__} lacks what trtpipe uses: {error}",
            "install a version from 2.11 to 2.14",
        ) from error

    def run(self: Any, *_: Any) -> None:
        missing = _operators(self.validate_conversion())
        if missing:
            raise BuildError(
                f"{Path(request.model).name}: torch-tensorrt has no converter for {', '.join(missing)}", _OTHER_ROUTE
            )
        construct(self)
        network = self.ctx.net
        _name(network, contract)
        raise _Built(build_network(trt, self.builder, network, log, request, report, started))

    interpreter.run = run
    return log


def _operators(unconverted: Iterable[str]) -> list[str]:
    """Operators in entries such as ``call_function aten.histc.default``, without getitem, which is a consequence."""
    names = sorted({words.rpartition(" ")[2] for words in unconverted})
    return [name for name in names if name != "_operator.getitem"] or names


def _name(network: Any, contract: IOContract) -> None:
    """Give inputs and outputs the names they have in an ONNX export, so that the same data feeds both engines.

    Raises:
        BuildError: their number is not that of the program.
    """
    for kind, specs, count, get in (
        ("inputs", contract.inputs, network.num_inputs, network.get_input),
        ("outputs", contract.outputs, network.num_outputs, network.get_output),
    ):
        if count != len(specs):
            raise BuildError(
                f"torch-tensorrt made a network of {count} {kind}, the program has {len(specs)}",
                f"return every tensor once, and use every input; or {_OTHER_ROUTE}",
            )
        for index, spec in enumerate(specs):
            tensor = get(index)
            tensor.name = spec.name
            for axis, dim in enumerate(spec.shape or ()) if kind == "inputs" else ():
                if isinstance(dim, str) and tensor.shape[axis] < 0:
                    tensor.set_dimension_name(axis, dim)


def _result(error: BaseException, request: BuildMessage, tt: Any, log: Log) -> EngineRecord:
    """The result, or the error: ours, which Torch-TensorRT has wrapped, or its own.

    A layer that TensorRT refuses fails only later, in a converter that meets a tensor without a rank: then TensorRT's
    first error is the reason.

    Raises:
        TrtpipeError: it failed.
    """
    last: BaseException | None = error
    while last is not None:
        if isinstance(last, TrtpipeError | OSError):
            raise last
        if isinstance(last, _Built):
            return last.record.model_copy(update={"route": f"torch-{request.flavor} {tt.__version__}"})
        error, last = last, last.__cause__
    text = str(error)
    words = (text.strip().splitlines() or [""])[0]
    operator = re.search(r"While executing .*?target=(?P<name>[\w.]+)", text)
    what = f"operator {operator['name']}" if operator else "it"
    if log.errors:
        why = tidy(log.errors[0])
    elif _TIED_SIZES in text:
        why = "PyTorch cannot rewrite a saved program in which one input size depends on another"
    else:
        why = f"{type(error).__name__}: {words[:400]}"
    raise BuildError(
        f"{Path(request.model).name}: torch-tensorrt cannot convert {what}: {why}", _OTHER_ROUTE
    ) from error
