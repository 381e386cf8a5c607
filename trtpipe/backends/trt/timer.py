"""Queries of an engine, timed by CUDA events in the way of trtexec 11 (samples/common/sampleInference.cpp).

Copy the inputs in, launch the kernels, copy the outputs out, with an event before and after each; two queries may be
under way, so that the GPU need not wait for the host. Other than in trtexec all of it is one stream: the copies of one
query never overlap the kernels of the next.
"""

from __future__ import annotations

import ctypes
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtpipe.backends.timing import Lap
from trtpipe.backends.trt.cudart import TO_DEVICE, TO_HOST
from trtpipe.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.artifact import Feed
    from trtpipe.backends.trt.cudart import Cudart

#: Queries that may be under way.
_DEPTH = 2
_NO_GRAPH = "the engine cannot be captured as a CUDA graph: its kernels were launched one by one"


@dataclass(frozen=True)
class _Buffer:
    """A tensor's memory: on the GPU, and pinned on the host; in bytes."""

    device: int
    host: int
    size: int


@dataclass(frozen=True)
class _Events:
    """What one query records."""

    begin: int
    launched: int
    computed: int
    end: int


class EngineStopwatch:
    """Implements ``Stopwatch``.

    Attributes:
        cuda_graph, notes: see there.
    """

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
        self._free = deque(_Events(*(_event(cuda, stack) for _ in range(4))) for _ in range(_DEPTH))
        self._running: deque[tuple[_Events, float]] = deque()

    def capture(self, stack: ExitStack) -> None:
        """Write the launches down as a CUDA graph, if the engine can be captured; they must have run once before."""
        self._cuda.begin_capture(self._stream)
        enqueued = self._context.execute_async_v3(self._stream)
        graph = self._cuda.end_capture(self._stream)
        if graph:
            stack.callback(self._cuda.destroy_graph, graph)
        if enqueued and graph:
            self._graph, self.cuda_graph = graph, True
        else:
            self.notes = (_NO_GRAPH,)

    def start(self) -> None:
        """Enqueue a query; waits for nothing."""
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

    def finish(self) -> Lap:
        """Wait for the oldest query under way."""
        events, enqueue = self._running.popleft()
        self._cuda.wait_event(events.end)
        self._free.append(events)
        elapsed = self._cuda.elapsed
        return Lap(
            enqueue=enqueue,
            h2d=elapsed(events.begin, events.launched) if self._inputs else 0.0,
            compute=elapsed(events.launched, events.computed),
            d2h=elapsed(events.computed, events.end) if self._outputs else 0.0,
        )

    def enqueue(self) -> None:
        """Launch the kernels, and nothing else.

        Raises:
            StageError: TensorRT does not.
        """
        if self.cuda_graph:
            self._cuda.launch(self._graph, self._stream)
        elif not self._context.execute_async_v3(self._stream):
            raise StageError("TensorRT cannot enqueue the engine", "run trtpipe verify: it says what TensorRT says")


@contextmanager
def opened(
    trt: Any, engine: Any, cuda: Cudart, feed: Feed, profile: int, *, cuda_graph: bool, transfers: bool
) -> Iterator[EngineStopwatch]:
    """A stopwatch with a context, a stream and buffers of its own.

    Args:
        feed: C-contiguous arrays of the engine's types, for every input.
        profile: index of an optimization profile that admits ``feed``.

    Raises:
        StageError: TensorRT or CUDA refuses.
    """
    with ExitStack() as stack:
        stream = cuda.stream()
        stack.callback(cuda.destroy_stream, stream)
        context = _context(trt, engine)
        if context is None or not context.set_optimization_profile_async(profile, stream):
            raise StageError(
                "TensorRT makes no execution context for the engine",
                "see that the GPU's memory is not taken: nvidia-smi",
            )
        cuda.wait_stream(stream)
        inputs = _bind_inputs(trt, engine, context, cuda, feed, stream, stack)
        outputs = _bind_outputs(trt, engine, context, cuda, stack)
        cuda.wait_stream(stream)
        watch = EngineStopwatch(cuda, context, stream, inputs if transfers else [], outputs if transfers else [], stack)
        watch.enqueue()  # what happens only once must not be captured
        cuda.wait_stream(stream)
        if cuda_graph:
            watch.capture(stack)
        stack.callback(cuda.wait_stream, stream)  # before anything above is given back
        yield watch


def _context(trt: Any, engine: Any) -> Any:
    """An execution context; ``None`` where TensorRT makes none.

    Left to itself TensorRT-RTX compiles kernels for a new shape in the background and runs general ones meanwhile
    (DynamicShapesKernelSpecializationStrategy.LAZY). A CUDA graph captured in that time would hold the general ones for
    good, however long the warm-up; so the first run is told to wait for its own.
    """
    strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is None:
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(config)


def _bind_inputs(
    trt: Any, engine: Any, context: Any, cuda: Cudart, feed: Feed, stream: int, stack: ExitStack
) -> list[_Buffer]:
    """Give the context its inputs, copied once; those that are part of a query."""
    found = []
    for name, value in feed.items():
        _accepted(context.set_input_shape(name, value.shape), name)
        buffer = _buffer(cuda, value.nbytes, stack)
        ctypes.memmove(buffer.host, value.ctypes.data, value.nbytes)
        if engine.get_tensor_location(name) == trt.TensorLocation.HOST:
            _accepted(context.set_tensor_address(name, buffer.host), name)
            continue
        cuda.copy(buffer.device, buffer.host, buffer.size, TO_DEVICE, stream)
        _accepted(context.set_tensor_address(name, buffer.device), name)
        found.append(buffer)
    return found


def _bind_outputs(trt: Any, engine: Any, context: Any, cuda: Cudart, stack: ExitStack) -> list[_Buffer]:
    """Give the context memory for the largest outputs there can be; those that are part of a query."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = []
    for name in names:
        if engine.get_tensor_mode(name) != trt.TensorIOMode.OUTPUT:
            continue
        size = context.get_max_output_size(name)
        _accepted(size >= 0, name)
        buffer = _buffer(cuda, size, stack)
        on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
        _accepted(context.set_tensor_address(name, buffer.host if on_host else buffer.device), name)
        if not on_host:
            found.append(buffer)
    return found


def _buffer(cuda: Cudart, size: int, stack: ExitStack) -> _Buffer:
    device = cuda.malloc(size)
    stack.callback(cuda.free, device)
    host = cuda.malloc_host(size)
    stack.callback(cuda.free_host, host)
    return _Buffer(device, host, size)


def _event(cuda: Cudart, stack: ExitStack) -> int:
    event = cuda.event()
    stack.callback(cuda.destroy_event, event)
    return event


def _accepted(answer: bool, name: str) -> None:
    if not answer:
        raise StageError(
            f"TensorRT does not take the shape or the memory of {name!r}", "feed shapes the engine was built for"
        )
