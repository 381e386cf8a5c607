"""onnxruntime on the CPU: the reference runner.

``session.disable_quant_qdq`` keeps Q/DQ pairs instead of fusing them into integer kernels, so INT8 results are those of
explicit quantization, as in TensorRT. This runner does not show FP16 overflow: its CPU kernels compute FP16 nodes in
FP32.
"""

from __future__ import annotations

import ctypes
import math
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from trtpipe.artifact import TensorSpec
from trtpipe.backends.base import Backend, EngineRequest, OpenRunner, Refusal, Turn
from trtpipe.backends.optimization_level import safe_level
from trtpipe.config.formats import FORMATS
from trtpipe.config.os_errors import translate_os_errors
from trtpipe.config.toolchain import version
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import InputError, InternalError, StageError
from trtpipe.isolation.imports import no_telemetry
from trtpipe.isolation.linux import return_freed_memory
from trtpipe.isolation.reducer import LocalReduction, load_reducer
from trtpipe.isolation.remote_runner import Opener, open_remote, open_remote_in_turn, prestart
from trtpipe.preflight import folder_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    import onnxruntime as ort

    from trtpipe.artifact import Feed
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import Target
    from trtpipe.isolation.reducer import Reduction
    from trtpipe.progress import Progress

#: How child processes open models.
OPENER = Opener("trtpipe.backends.onnxruntime:opened_here", (__name__, "ml_dtypes", "onnx", "onnxruntime"))
#: Bytes of a model from which on a hundredth of a second is spent to give back memory: as much again, and more.
_LARGE = 16 << 20
#: The level of optimizations (``ORT_ENABLE_EXTENDED``) at which no weight is copied.
_FOR_FEW_RUNS = 2
#: In onnxruntime's message for a file that is no model, and for one that cannot be read from the disk.
_UNREADABLE = "INVALID_PROTOBUF"


class OnnxRunner(OpenRunner):
    """An open onnxruntime session."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, session: ort.InferenceSession, model: Path) -> None:
        self._session = session
        self._model = model
        self.inputs = tuple(map(_spec, session.get_inputs()))
        self.outputs = tuple(map(_spec, session.get_outputs()))
        self._names = [output.name for output in self.outputs]
        self._lent: Sequence[ort.OrtValue] = ()

    @property
    def device(self) -> str:
        return f"onnxruntime {version('onnxruntime')} on CPU"

    def infer(self, feed: Feed) -> Feed:
        if any(spec.dtype in _NOT_NUMPYS for spec in (*self.inputs, *self.outputs)):
            return {name: value.copy() for name, value in self.peek(feed).items()}
        with self._run():
            return dict(zip(self._names, self._session.run(self._names, feed), strict=True))

    def peek(self, feed: Feed) -> Feed:
        """Run once; the arrays are onnxruntime's own, valid until the next run. Raises what ``infer`` raises."""
        if any(value.dtype.kind in "OSU" for value in feed.values()):  # text has to go through ``run``
            return self.infer(feed)
        self._lent = ()  # so that this run can reuse the memory
        with self._run():
            given = {name: _given(value) for name, value in feed.items()}
            self._lent = self._session.run_with_ort_values(self._names, given)
            return {name: _seen(value) for name, value in zip(self._names, self._lent, strict=True)}

    def reduced(self, reducer: str, names: Sequence[str]) -> Reduction:
        """Run the model and hand its outputs to a reducer without copying them."""
        return LocalReduction(self.peek, load_reducer(reducer, names))

    @contextmanager
    def _run(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise InputError(
                f"{self._model.name}: onnxruntime cannot run this feed: {_first_line(error)}",
                "check the feed's shapes and values against the model's inputs",
            ) from error


class OnnxRuntime(Backend):
    """Opens ONNX files; builds nothing."""

    name = "onnxruntime"

    def fingerprint(self, settings: Settings) -> dict[str, str]:
        return {"onnxruntime": version("onnxruntime") or "absent"}

    def refuses(self, model: Path | None, profile: DeploymentProfile, target: Target) -> Refusal | None:
        return Refusal("onnxruntime builds no engines", "choose --backend tensorrt-rtx or tensorrt")

    def runs(self, target: Target) -> Refusal | None:
        return Refusal("onnxruntime runs no engines", "choose --backend tensorrt-rtx or tensorrt")

    def build(self, request: EngineRequest, progress: Progress) -> EngineRecord:
        raise InternalError("onnxruntime builds no engines")

    def open(self, model: Path, settings: Settings) -> AbstractContextManager[OpenRunner]:
        """Open an ONNX file, in a child process unless this is one (``settings.isolate``).

        Raises:
            StageError: onnxruntime cannot load the model; the message carries its reason.
            WorkerError: it crashes, or takes too long or too much memory, now or when it runs.
        """
        return open_remote(OPENER, model, settings) if settings.isolate else opened_here(model, settings.threads)

    @contextmanager
    def in_turn(self, settings: Settings) -> Iterator[Turn]:
        """A function that opens the graphs of one folder, each in place of the one before, in one child process."""
        if settings.isolate:
            with open_remote_in_turn(OPENER, settings) as turn:
                yield turn
            return
        with ExitStack() as last:

            def turn_here(model: Path, *, few: bool = False) -> OpenRunner:
                last.close()
                return last.enter_context(opened_here(model, settings.threads, few))

            yield turn_here

    def prestart(self, settings: Settings) -> None:
        """Start the process that forks the children now, beside other work."""
        prestart(OPENER, settings)


@contextmanager
def opened_here(model: Path, threads: int, few: bool = False) -> Iterator[OnnxRunner]:
    """Open an ONNX file in this process, which may not survive it.

    Args:
        few: whether it runs a few times only: weights are then not copied into the kernels' own layout.

    Raises:
        StageError: onnxruntime cannot load the model; the message carries its reason.
        HostError: the disk fails.
    """
    no_telemetry()
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # Graphs run in turn, one sample at a time: waiting threads of one session must not take cores from the next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # What only measures a value runs as soon as it can, not at the end, to where all values would have to be kept.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    with translate_os_errors(model, f"read {model.name}", elsewhere="use another disk"):
        level = min(safe_level(model), _FOR_FEW_RUNS) if few else safe_level(model)
        options.graph_optimization_level = ort.GraphOptimizationLevel(level)
        try:
            session = _session(model, options)
        except StageError as error:
            if _UNREADABLE not in error.message:
                if (rest := _before_plugins(model)) is None:
                    raise
                yield OnnxRunner(_session(model, options, rest), model)
                return
            with model.open("rb") as stream:  # where that fails, the disk is the cause, and is named
                while stream.read(1 << 20):
                    pass
            session = _session(model, options)
    yield OnnxRunner(session, model)


def _before_plugins(model: Path) -> bytes | None:
    """What of a graph with TensorRT plug-ins comes before these, as a model; ``None`` for a graph without any."""
    import onnx_ir as ir

    from trtpipe.passes.plugins import cut_plugins

    loaded = ir.load(model)
    if not cut_plugins(loaded):
        return None
    return bytes(ir.serde.serialize_model(ir.external_data.load_to_model(loaded)).SerializeToString())


def _session(model: Path, options: ort.SessionOptions, content: bytes | None = None) -> ort.InferenceSession:
    """A session of a file, or of ``content`` in its place."""
    import onnxruntime as ort

    try:
        session = ort.InferenceSession(content or str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise StageError(
            f"{model.name}: onnxruntime cannot load the model: {_first_line(error)}",
            "check the node named above; operators outside ONNX's standard set cannot be verified here",
        ) from error
    if folder_size(model.parent) > _LARGE:
        return_freed_memory()  # onnxruntime copied the weights into its own layout, and freed what it read
    return session


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0].removeprefix("[ONNXRuntimeError] : ")


def _given(array: np.ndarray) -> ort.OrtValue:
    """An input; one of a type that numpy itself does not have as its bits and ONNX's number of the type."""
    import onnx
    import onnxruntime as ort

    form = _NOT_NUMPYS.get(array.dtype.name)
    if form is None:
        return ort.OrtValue.ortvalue_from_numpy(array)
    kind = onnx.TensorProto.DataType.Value(form.onnx)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(f"u{array.itemsize}"), kind)


def _seen(value: ort.OrtValue) -> np.ndarray:
    """The array without copying; a copy for types that numpy itself does not have."""
    import numpy as np

    kind = _DTYPES.get(value.data_type(), value.data_type()[len("tensor(") : -1])
    dtype = _NOT_NUMPYS[kind].dtype if kind in _NOT_NUMPYS else np.dtype(kind) if kind in _NUMBERS else None
    if dtype is None or (kind in _NUMBERS and not math.prod(value.shape())):
        copy: np.ndarray = value.numpy()
        return copy
    if not math.prod(value.shape()):
        return np.empty(value.shape(), dtype)
    memory = (ctypes.c_char * (math.prod(value.shape()) * dtype.itemsize)).from_address(value.data_ptr())
    there: np.ndarray = np.frombuffer(memory, dtype).reshape(value.shape())
    return there


_FLOATS = tuple(f"float{bits}" for bits in (16, 32, 64))
_NUMBERS = frozenset(("bool", *_FLOATS, *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))))
#: Formats of whole bytes that numpy has through ml_dtypes alone; onnxruntime does not exchange arrays of them.
_NOT_NUMPYS = MappingProxyType(
    {form.storage: form for form in FORMATS if form.bits % 8 == 0 and form.storage not in _NUMBERS}
)
_DTYPES = {
    **{f"tensor({form.onnx.lower()})": form.storage for form in FORMATS},
    "tensor(double)": "float64",
    "tensor(string)": "str",
}


def _spec(value: ort.NodeArg) -> TensorSpec:
    dtype = _DTYPES.get(value.type, value.type.removeprefix("tensor(").removesuffix(")"))
    return TensorSpec(name=value.name, dtype=dtype, shape=tuple(value.shape))
