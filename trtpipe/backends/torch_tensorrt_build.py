"""The work of the Torch-TensorRT room: an exported program -> TensorRT's network -> an engine.

Torch-TensorRT lowers the program and converts it; the network it arrives at is built like any other (``trt.builder``),
so profiles, options, reports and errors are those of every TensorRT back-end.
"""

from __future__ import annotations

import logging
import re
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe.backends.plan import check_rtx_plan
from trtpipe.backends.trt.builder import build_network
from trtpipe.backends.trt.capabilities import for_capabilities
from trtpipe.backends.trt.errors import Log, tidy
from trtpipe.backends.trt.request import BuildRequest
from trtpipe.config.target import find_target
from trtpipe.engine.record import EngineRecord, ProgramRecord
from trtpipe.errors import BuildError, HostError, TrtpipeError
from trtpipe.isolation.worker import Report

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trtpipe.artifact import IOContract, TensorSpec
    from trtpipe.config.profile import ShapeRange

_OTHER_ROUTE = "build by way of ONNX: --backend tensorrt-rtx or tensorrt"

#: What torch 2.13 says of a program, once saved and loaded, with an input size such as ``s0 + 1``.
_TIED_SIZES = "expected sympy.Symbol"


class _Built(Exception):
    """Carries the result past what Torch-TensorRT would do with an engine: load it, which needs a GPU."""

    def __init__(self, facts: EngineRecord) -> None:
        super().__init__("built")
        self.facts = facts


def build_task(request: BuildRequest, report: Report) -> EngineRecord:
    """Convert and build one program (in the worker process).

    Raises:
        BuildError: the program cannot be converted or built; the message names the operators.
        InputError: the shape ranges do not fit.
        HostError: torch, Torch-TensorRT or its TensorRT cannot be loaded.
        OSError: the plan cannot be written.
    """
    started = time.monotonic()
    program_facts = ProgramRecord.read(Path(request.model).with_name(f"{Path(request.model).name}.json"))
    report("loading torch-tensorrt", 0, None)
    tt = _load(request)
    import torch

    program = torch.export.load(request.model)
    log = _build_instead_of_it(tt, request, report, program_facts.contract, started)
    logging.getLogger("torch_tensorrt").setLevel(logging.CRITICAL + 1)  # what it says comes as an exception too
    report("converting", 0, None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tt.dynamo.convert_exported_program_to_serialized_trt_engine(
                program,
                arg_inputs=_specs(tt, torch, program_facts.contract, request.shapes),
                immutable_weights=True,
                require_full_compilation=True,
            )
    except Exception as error:  # noqa: BLE001 - a converter may raise anything
        return _result(error, request, tt, log)
    raise BuildError(f"{Path(request.model).name}: torch-tensorrt built nothing", _OTHER_ROUTE)


def _load(request: BuildRequest) -> Any:
    try:
        import torch

        if torch.cuda.is_available():
            import torch_tensorrt

            return torch_tensorrt
        from trtpipe.backends.torch_tensorrt_shim import without_gpu

        with without_gpu(find_target(request.targets[0]).capability):
            import torch_tensorrt

            return torch_tensorrt
    except (ImportError, OSError) as error:
        raise HostError(
            f"torch-tensorrt cannot be loaded: {error}",
            "in an environment of its own: pip install 'trtpipe[torch-tensorrt]'",
        ) from error


def _specs(tt: Any, torch: Any, contract: IOContract, profiles: tuple[Mapping[str, ShapeRange], ...]) -> list[Any]:
    return [_spec(tt, torch, spec, [profile[spec.name] for profile in profiles if spec.name in profile])
            for spec in contract.inputs]  # fmt: skip


def _spec(tt: Any, torch: Any, spec: TensorSpec, ranges: list[ShapeRange]) -> Any:
    dtype = getattr(torch, spec.dtype)
    fixed = tuple(dim for dim in spec.shape or () if isinstance(dim, int))
    if len(fixed) == len(spec.shape or ()):
        return tt.Input(shape=fixed, dtype=dtype)
    whole = ranges[0]
    for other in ranges[1:]:
        whole = whole.joined(other)
    if whole.min == whole.max:
        return tt.Input(shape=whole.opt, dtype=dtype)
    return tt.Input(min_shape=whole.min, opt_shape=whole.opt, max_shape=whole.max, dtype=dtype)


def _build_instead_of_it(tt: Any, request: BuildRequest, report: Report, contract: IOContract, started: float) -> Log:
    """Have Torch-TensorRT stop where its network is complete, and build that here; the log of all TensorRT says."""
    try:
        from torch_tensorrt.dynamo.conversion import _TRTInterpreter as conversion

        trt, interpreter = conversion.trt, conversion.TRTInterpreter
        log = Log(trt)
        conversion.TRT_LOGGER = log.logger
        construct = interpreter._construct_trt_network_def
        interpreter.run  # noqa: B018 - replaced below
    except (ImportError, AttributeError) as error:
        raise HostError(
            f"torch-tensorrt {tt.__version__} is put together otherwise than expected: {error}",
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
        configure = for_capabilities(trt, request) if "rtx" in request.flavor else None
        facts = build_network(trt, self.builder, network, log, request, report, configure, started)
        raise _Built(facts)

    interpreter.run = run
    return log


def _operators(unconverted: Iterable[str]) -> list[str]:
    """The names of operators: ``call_function aten.histc.default``; getitem only takes apart what another returns."""
    names = sorted({words.rpartition(" ")[2] for words in unconverted})
    return [name for name in names if name != "_operator.getitem"] or names


def _name(network: Any, contract: IOContract) -> None:
    """Inputs and outputs under the names of the ONNX route, so that the same data feeds both engines.

    Raises:
        BuildError: there are not as many as the program has.
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


def _result(error: BaseException, request: BuildRequest, tt: Any, log: Log) -> EngineRecord:
    """What came of it: our own result or error, which Torch-TensorRT has wrapped, or its own.

    A layer that TensorRT refuses shows only later, as a tensor without a rank, in a converter that can do nothing for
    it: then TensorRT's own first words tell why.

    Raises:
        TrtpipeError: it failed.
    """
    last: BaseException | None = error
    while last is not None:
        if isinstance(last, TrtpipeError | OSError):
            raise last
        if isinstance(last, _Built):
            facts = last.facts
            unchecked = check_rtx_plan(Path(request.plan), request.targets) if "rtx" in request.flavor else ()
            package = "torch-tensorrt-rtx" if "rtx" in request.flavor else "torch-tensorrt"
            return facts.model_copy(
                update={"route": f"{package} {tt.__version__}", "warnings": (*facts.warnings, *unchecked)}
            )
        error, last = last, last.__cause__
    text = str(error)
    words = (text.strip().splitlines() or [""])[0]
    operator = re.search(r"While executing .*?target=(?P<name>[\w.]+)", text)
    what = f"operator {operator['name']}" if operator else "it"
    if log.errors:
        why = tidy(log.errors[0])
    elif _TIED_SIZES in text:
        why = "PyTorch cannot rewrite a saved program in which a size of an input follows from another's"
    else:
        why = f"{type(error).__name__}: {words[:400]}"
    raise BuildError(
        f"{Path(request.model).name}: torch-tensorrt cannot convert {what}: {why}", _OTHER_ROUTE
    ) from error
