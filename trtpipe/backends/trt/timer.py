"""Times queries of an engine by CUDA events, as trtexec 11 does (samples/common/sampleInference.cpp).

Copy the inputs in, launch the kernels, copy the outputs out, with an event before and after each; two queries may be
enqueued, so that the GPU does not wait for the host. Unlike trtexec it uses one stream: the copies of one query never
overlap the kernels of the next.
"""

from __future__ import annotations

import ctypes
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtpipe.backends.timing import QueryTimes
from trtpipe.backends.trt.cudart import TO_DEVICE, TO_HOST
from trtpipe.backends.trt.session import execution_context
from trtpipe.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.artifact import Feed
    from trtpipe.backends.trt.cudart import Cudart

#: Queries that may be enqueued.
_DEPTH = 2
_NO_GRAPH = "the engine cannot be captured as a CUDA graph: its kernels were launched one by one"


@dataclass(frozen=True)
class _Buffer:
    """Memory of a tensor: addresses on the GPU and of pinned host memory, size in bytes."""

    device: int
    host: int
    size: int

    @classmethod
    def of(cls, cuda: Cudart, size: int, stack: ExitStack) -> _Buffer:
        return cls(cuda.malloc(size, stack), cuda.malloc_host(size, stack), size)


@dataclass(frozen=True)
class _Events:
    """CUDA events of one query."""

    begin: int
    launched: int
    computed: int
    end: int


class EngineTimer:
    """Implements ``Timer`` by CUDA events."""

    def __init__(
        self, cuda: Cudart, context: Any, stream: int, inputs: list[_Buffer], outputs: list[_Buffer], stack: ExitStack
    ) -> None:
        self._cuda = cuda
        self._context = context
        self._stream = stream
        self._inputs = inputs
        self._outputs = outputs
        self._graph = 0
        self.cuda_graph = False
        self.notes: tuple[str, ...] = ()
        self._free = deque(_Events(*(cuda.event(stack) for _ in range(4))) for _ in range(_DEPTH))
        self._running: deque[tuple[_Events, float]] = deque()

    def capture(self, stack: ExitStack) -> None:
        """Capture the launches as a CUDA graph, if the engine allows it; they must have run once before."""
        self._cuda.begin_capture(self._stream)
        enqueued = self._context.execute_async_v3(self._stream)
        self._graph = self._cuda.end_capture(self._stream, stack)
        if enqueued and self._graph:
            self.cuda_graph = True
        else:
            self.notes = (_NO_GRAPH,)

    def start(self) -> None:
        cuda, stream = self._cuda, self._stream
        events = self._free.popleft()
        cuda.record(events.begin, stream)
        for buffer in self._inputs:
            cuda.copy(buffer.device, buffer.host, buffer.size, TO_DEVICE, stream)
        cuda.record(events.launched, stream)
        begin = time.perf_counter()
        self.enqueue()
        took = time.perf_counter() - begin
        cuda.record(events.computed, stream)
        for buffer in self._outputs:
            cuda.copy(buffer.host, buffer.device, buffer.size, TO_HOST, stream)
        cuda.record(events.end, stream)
        self._running.append((events, took))

    def finish(self) -> QueryTimes:
        events, enqueue = self._running.popleft()
        self._cuda.wait_event(events.end)
        self._free.append(events)
        elapsed = self._cuda.elapsed
        return QueryTimes(
            enqueue=enqueue,
            h2d=elapsed(events.begin, events.launched) if self._inputs else 0.0,
            compute=elapsed(events.launched, events.computed),
            d2h=elapsed(events.computed, events.end) if self._outputs else 0.0,
        )

    def enqueue(self) -> None:
        """Launch the kernels, without transfers.

        Raises:
            StageError: TensorRT cannot enqueue the engine.
        """
        if self.cuda_graph:
            self._cuda.launch(self._graph, self._stream)
        elif not self._context.execute_async_v3(self._stream):
            raise StageError("TensorRT cannot enqueue the engine", "run trtpipe verify: it shows TensorRT's messages")


@contextmanager
def opened(
    trt: Any, engine: Any, cuda: Cudart, feed: Feed, profile: int, *, cuda_graph: bool, transfers: bool
) -> Iterator[EngineTimer]:
    """A timer with an execution context, a stream and buffers of its own.

    Args:
        feed: C-contiguous arrays of the engine's types, for every input.
        profile: index of an optimization profile that admits ``feed``.

    Raises:
        StageError: TensorRT or CUDA refuses.
    """
    with ExitStack() as stack:
        stream = cuda.stream(stack)
        context = execution_context(trt, engine)
        if context is None or not context.set_optimization_profile_async(profile, stream):
            raise StageError(
                "TensorRT cannot create an execution context for the engine",
                "check with nvidia-smi that the GPU has free memory",
            )
        cuda.wait_stream(stream)
        inputs = _bind_inputs(trt, engine, context, cuda, feed, stream, stack)
        outputs = _bind_outputs(trt, engine, context, cuda, stack)
        cuda.wait_stream(stream)
        timer = EngineTimer(cuda, context, stream, inputs if transfers else [], outputs if transfers else [], stack)
        timer.enqueue()  # one-time work must not be captured
        cuda.wait_stream(stream)
        if cuda_graph:
            timer.capture(stack)
        stack.callback(cuda.wait_stream, stream)  # before anything above is freed
        yield timer


def _bind_inputs(
    trt: Any, engine: Any, context: Any, cuda: Cudart, feed: Feed, stream: int, stack: ExitStack
) -> list[_Buffer]:
    """Copy the inputs once and bind them; those to transfer in each query."""
    found = []
    for name, value in feed.items():
        _accepted(context.set_input_shape(name, value.shape), name)
        buffer = _Buffer.of(cuda, value.nbytes, stack)
        ctypes.memmove(buffer.host, value.ctypes.data, value.nbytes)
        if engine.get_tensor_location(name) == trt.TensorLocation.HOST:
            _accepted(context.set_tensor_address(name, buffer.host), name)
            continue
        cuda.copy(buffer.device, buffer.host, buffer.size, TO_DEVICE, stream)
        _accepted(context.set_tensor_address(name, buffer.device), name)
        found.append(buffer)
    return found


def _bind_outputs(trt: Any, engine: Any, context: Any, cuda: Cudart, stack: ExitStack) -> list[_Buffer]:
    """Bind memory for the largest possible outputs; those to transfer in each query."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = []
    for name in names:
        if engine.get_tensor_mode(name) != trt.TensorIOMode.OUTPUT:
            continue
        size = context.get_max_output_size(name)
        _accepted(size >= 0, name)
        buffer = _Buffer.of(cuda, size, stack)
        on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
        _accepted(context.set_tensor_address(name, buffer.host if on_host else buffer.device), name)
        if not on_host:
            found.append(buffer)
    return found


def _accepted(answer: bool, name: str) -> None:
    if not answer:
        raise StageError(
            f"TensorRT rejects the shape or the memory of {name!r}", "feed shapes the engine was built for"
        )
