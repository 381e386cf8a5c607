"""Runs an engine for an application: one stream, buffers that grow and are kept, and a CUDA graph for equal shapes.

It needs numpy and a TensorRT flavor alone. A call copies the inputs into pinned memory and on to the GPU (arrays that
are there already, within it), enqueues the kernels, copies the outputs back, and waits. From the second call of equal
shapes on, the kernels are launched as one CUDA graph, where the engine can be captured; buffers keep their addresses
meanwhile. Calls from several threads take turns.
"""

from __future__ import annotations

import ctypes
import math
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.backends import dlpack
from trtpipe.backends.device_array import DeviceArray
from trtpipe.backends.trt.cudart import ON_DEVICE, TO_DEVICE, TO_HOST
from trtpipe.backends.trt.dtypes import dtype_name, numpy_dtype
from trtpipe.errors import HostError, InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trtpipe.backends.trt.cudart import Cudart
    from trtpipe.backends.trt.errors import Log

_NO_MEMORY = "check with nvidia-smi that the GPU has free memory"


class _Buffer:
    """Memory of one input or output on the GPU and, pinned, on the host; it grows as needed."""

    def __init__(self, name: str, dtype: str, *, on_host: bool) -> None:
        self.name = name
        self.dtype = numpy_dtype(dtype)
        self.on_host = on_host
        self.device = 0
        self.host = 0
        self._size = -1
        self._stack = ExitStack()

    @property
    def bound(self) -> int:
        """The address that TensorRT is told."""
        return self.host if self.on_host else self.device

    def reserve(self, cuda: Cudart, size: int) -> None:
        """Make it large enough."""
        if size > self._size:
            self.close()
            self.device, self.host = cuda.malloc(size, self._stack), cuda.malloc_host(size, self._stack)
            self._size = size

    def close(self) -> None:
        """Give the memory back."""
        self._stack.close()
        self._size = -1


class EngineSession:
    """An engine that is ready to run on one GPU.

    Args:
        trt: the module of the engine's flavor.
        cuda: the CUDA runtime.
        device: number of the GPU.
        name: of the engine, for errors.
        stack: gives all memory back when it closes.
        cuda_graph: whether kernels are launched as a CUDA graph where that is possible.

    Raises:
        HostError: there is no memory for it.
    """

    def __init__(
        self, trt: Any, engine: Any, cuda: Cudart, device: int, name: str, stack: ExitStack, *, cuda_graph: bool
    ) -> None:
        self._trt, self._engine, self._cuda, self._device, self._name = trt, engine, cuda, device, name
        self._lock = threading.Lock()
        cuda.use(device)
        self._stream = cuda.stream(stack)
        self._context = execution_context(trt, engine)
        if self._context is None:
            raise HostError(f"{name}: TensorRT cannot create an execution context", _NO_MEMORY)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._inputs = {name: self._buffer(name, stack) for name in inputs}
        self._outputs = {name: self._buffer(name, stack) for name in names if name not in inputs}
        self._graphs = stack.enter_context(ExitStack())
        stack.callback(cuda.wait_stream, self._stream)  # before anything above is freed
        self._use_graph = cuda_graph
        self._graph = 0
        self._runs = 0
        self._profile = 0
        self._form: object = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._listeners: dict[str, object] = {}

    @property
    def stream(self) -> int:
        """The CUDA stream that everything is enqueued in."""
        return self._stream

    @property
    def cuda_graph(self) -> bool:
        """Whether the last call launched a CUDA graph."""
        return bool(self._graph)

    def run(
        self, feed: Mapping[str, np.ndarray | dlpack.DeviceTensor], *, on_device: bool = False
    ) -> dict[str, np.ndarray] | dict[str, DeviceArray]:
        """Run once.

        Args:
            feed: for every input an array of its type, in host memory or on this GPU.
            on_device: whether the outputs stay on the GPU.

        Raises:
            InputError: no optimization profile admits the shapes; or an input whose values decide shapes is on the GPU.
            StageError: TensorRT or CUDA refuses.
        """
        for name, value in feed.items():
            if self._inputs[name].on_host and not isinstance(value, np.ndarray):
                raise InputError(f"input {name!r} decides shapes, and is on the GPU", "give it in host memory")
        with self._lock:
            self._cuda.use(self._device)
            self._prepare(feed)
            for name, value in feed.items():
                self._put(self._inputs[name], value)
            self._launch()
            if on_device:
                return {name: self._kept(name, buffer) for name, buffer in self._outputs.items()}
            return self._fetched()

    def _prepare(self, feed: Mapping[str, np.ndarray | dlpack.DeviceTensor]) -> None:
        """Tell TensorRT the shapes and addresses, unless they are those of the last call."""
        form = tuple(
            value.tobytes() if isinstance(value, np.ndarray) and self._inputs[name].on_host else value.shape
            for name, value in sorted(feed.items())
        )
        if form == self._form:
            self._runs += 1
            return
        self._form = None
        self._graphs.close()
        self._graph, self._runs = 0, 1
        profile = self._admitting({name: tuple(value.shape) for name, value in feed.items()})
        if profile != self._profile:
            self._require(self._context.set_optimization_profile_async(profile, self._stream), "its profile")
            self._cuda.wait_stream(self._stream)
            self._profile = profile
        for name, value in feed.items():
            buffer = self._inputs[name]
            buffer.reserve(self._cuda, math.prod(value.shape) * buffer.dtype.itemsize)
            if buffer.on_host:
                self._put(buffer, value)  # its values decide shapes
            self._require(self._context.set_input_shape(name, tuple(value.shape)), name)
            self._require(self._context.set_tensor_address(name, buffer.bound), name)
        for name, buffer in self._outputs.items():
            self._bind_output(name, buffer)
        self._form = form

    def _bind_output(self, name: str, buffer: _Buffer) -> None:
        """Memory for the largest that the output can be; its shape is known now, or told while the engine runs."""
        size = self._context.get_max_output_size(name)
        self._require(size >= 0, name)
        buffer.reserve(self._cuda, size)
        self._require(self._context.set_tensor_address(name, buffer.bound), name)
        self._shapes[name] = tuple(self._context.get_tensor_shape(name))
        if -1 in self._shapes[name]:
            self._listeners[name] = _listener(self._trt, buffer.bound, self._shapes)
            self._require(self._context.set_output_allocator(name, self._listeners[name]), name)

    def _put(self, buffer: _Buffer, value: np.ndarray | dlpack.DeviceTensor) -> None:
        """Copy an input to where TensorRT reads it."""
        size = math.prod(value.shape) * buffer.dtype.itemsize
        if isinstance(value, dlpack.DeviceTensor):
            self._cuda.copy(buffer.device, value.address, size, ON_DEVICE, self._stream)
            return
        dense = np.ascontiguousarray(value)
        ctypes.memmove(buffer.host, dense.ctypes.data, size)
        if not buffer.on_host:
            self._cuda.copy(buffer.device, buffer.host, size, TO_DEVICE, self._stream)

    def _launch(self) -> None:
        """Enqueue the kernels; from the second time on as one graph, if the engine can be captured."""
        if self._use_graph and self._runs == 2:  # one-time work is behind us, and is not captured
            self._cuda.begin_capture(self._stream)
            enqueued = self._context.execute_async_v3(self._stream)
            self._graph = self._cuda.end_capture(self._stream, self._graphs)
            self._use_graph = bool(enqueued and self._graph)
        if self._graph and self._use_graph:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._graph = 0
            self._require(self._context.execute_async_v3(self._stream), "its kernels")

    def _fetched(self) -> dict[str, np.ndarray]:
        """The outputs in host memory, in arrays of their own."""
        if any(-1 in shape for shape in self._shapes.values()):
            self._cuda.wait_stream(self._stream)  # only then their shapes are known
        for name, buffer in self._outputs.items():
            if not buffer.on_host:
                self._cuda.copy(buffer.host, buffer.device, self._size(name, buffer), TO_HOST, self._stream)
        self._cuda.wait_stream(self._stream)
        return {name: self._host_copy(name, buffer) for name, buffer in self._outputs.items()}

    def _host_copy(self, name: str, buffer: _Buffer) -> np.ndarray:
        found = np.empty(self._shapes[name], buffer.dtype)
        ctypes.memmove(found.ctypes.data, buffer.host, found.nbytes)
        return found

    def _kept(self, name: str, buffer: _Buffer) -> DeviceArray:
        """An output on the GPU, in memory of its own."""
        self._cuda.wait_stream(self._stream)
        size = self._size(name, buffer)
        array = DeviceArray(self._cuda, self._device, self._shapes[name], buffer.dtype.name, size)
        kind = TO_DEVICE if buffer.on_host else ON_DEVICE
        self._cuda.copy(array.address, buffer.bound, size, kind, self._stream)
        self._cuda.wait_stream(self._stream)
        return array

    def _size(self, name: str, buffer: _Buffer) -> int:
        return math.prod(self._shapes[name]) * buffer.dtype.itemsize

    def _admitting(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The first optimization profile that admits the shapes."""
        for index in range(self._engine.num_optimization_profiles):
            if all(self._fits(name, shape, index) for name, shape in shapes.items()):
                return index
        words = ", ".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
        raise InputError(
            f"{self._name}: no optimization profile admits {words}",
            "give shapes inside the ranges the engine was built for, or build it with wider ones",
        )

    def _fits(self, name: str, shape: Sequence[int], index: int) -> bool:
        if self._engine.is_shape_inference_io(name):
            return True
        low, _, high = (tuple(dims) for dims in self._engine.get_tensor_profile_shape(name, index))
        return len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def _buffer(self, name: str, stack: ExitStack) -> _Buffer:
        dtype = dtype_name(self._engine.get_tensor_dtype(name))
        buffer = _Buffer(name, dtype, on_host=self._engine.get_tensor_location(name) == self._trt.TensorLocation.HOST)
        stack.callback(buffer.close)
        return buffer

    def _require(self, answer: bool, what: str) -> None:
        if not answer:
            raise StageError(
                f"{self._name}: TensorRT refuses {what}", "check the feed's shapes; if they are right, build again"
            )


@contextmanager
def opened_session(
    trt: Any, cuda: Cudart, plan: bytes, name: str, device: int, log: Log, *, cuda_graph: bool
) -> Iterator[EngineSession]:
    """An engine from its bytes.

    Args:
        log: collects TensorRT's messages.

    Raises:
        HostError: the plan does not load on this machine.
    """
    cuda.use(device)
    trt.init_libnvinfer_plugins(log.logger, "")
    engine = trt.Runtime(log.logger).deserialize_cuda_engine(plan)
    del plan  # the engine has all of it
    if engine is None:
        reason = "; ".join(log.errors[:2]) or "no reason given"
        raise HostError(
            f"{name}: cannot be opened on this machine: {reason}",
            "an engine runs on the GPU and the TensorRT version it was built for: build it for this machine",
        )
    with ExitStack() as stack:
        yield EngineSession(trt, engine, cuda, device, name, stack, cuda_graph=cuda_graph)


def execution_context(trt: Any, engine: Any) -> Any:
    """An execution context; ``None`` if TensorRT creates none.

    By default TensorRT-RTX compiles kernels for a new shape in the background and runs generic ones meanwhile
    (DynamicShapesKernelSpecializationStrategy.LAZY). A CUDA graph captured in that time would keep the generic ones,
    however long the warm-up; EAGER makes the first run wait for the specialized ones.
    """
    # TensorRT-RTX only: TensorRT selects kernels at build time.
    strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is None:
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(config)


def _listener(trt: Any, address: int, shapes: dict[str, tuple[int, ...]]) -> Any:
    """What TensorRT asks for memory, and tells the shape of, an output whose shape depends on the data."""

    class Listener(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            return address

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return address

        def notify_shape(self, name: str, shape: Sequence[int]) -> None:
            shapes[name] = tuple(shape)

    return Listener()
