"""The part of finish.py that runs and times an engine on a GPU, through the CUDA runtime itself."""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from trtpipe.delivery.finish.common import Failed, Feed, Record, reasons
from trtpipe.delivery.finish.judge import latency_record, widened

#: Queries that may be enqueued; the directions of cudaMemcpyKind; cudaDevAttrComputeCapabilityMajor, ...Minor.
DEPTH, TO_DEVICE, TO_HOST, MAJOR, MINOR = 2, 1, 2, 75, 76


_pointer, _result, _number = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int)
#: The functions of the CUDA runtime that are called, and the types of their arguments; equal in CUDA 12 and 13.
CALLS = {
    "cudaGetDeviceCount": (_number,),
    "cudaDeviceGetAttribute": (_number, ctypes.c_int, ctypes.c_int),
    "cudaMalloc": (_result, ctypes.c_size_t),
    "cudaMallocHost": (_result, ctypes.c_size_t),
    "cudaMemcpyAsync": (_pointer, _pointer, ctypes.c_size_t, ctypes.c_int, _pointer),
    "cudaStreamCreate": (_result,),
    "cudaStreamSynchronize": (_pointer,),
    "cudaEventCreateWithFlags": (_result, ctypes.c_uint),
    "cudaEventRecord": (_pointer, _pointer),
    "cudaEventSynchronize": (_pointer,),
    "cudaEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _pointer, _pointer),
}


def libraries() -> list[str]:
    """Where the CUDA runtime may be: what the system finds, the toolkit's folders, and NVIDIA's Python packages."""
    names = [f"libcudart.so{suffix}" for suffix in (".12", ".13", "")]
    folders = ["", "/usr/local/cuda/lib64/", "/usr/local/cuda/targets/aarch64-linux/lib/"]
    found = [folder + name for folder in folders for name in names]
    return found + [str(path) for place in sys.path for path in Path(place).glob("nvidia/*/lib/libcudart.so.*")]


class Cuda:
    """The CUDA runtime; handles and addresses are integers. What is made is freed when the process ends."""

    def __init__(self, library: Any) -> None:
        self._library = library
        for name, arguments in CALLS.items() if library is not None else ():
            getattr(library, name).argtypes = arguments

    @classmethod
    def load(cls) -> Cuda | None:
        """The CUDA runtime; ``None`` where there is no library, driver or GPU."""
        for path in libraries():
            try:
                found = cls(ctypes.CDLL(path))
            except (OSError, AttributeError):
                continue
            count = ctypes.c_int()
            if found._library.cudaGetDeviceCount(ctypes.byref(count)) == 0 and count.value:
                return found
        return None

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function; what it returns other than 0 is an error."""
        status = getattr(self._library, name)(*arguments)
        if status:
            raise Failed(6, f"{name} fails: CUDA error {status}", "check the GPU and its free memory")

    def made(self, name: str, *arguments: Any) -> int:
        """A handle, or an address, that a function writes to its first argument."""
        result = ctypes.c_void_p()
        self.call(name, ctypes.byref(result), *arguments)
        return int(result.value or 0)

    def capability(self) -> tuple[int, int]:
        """Compute capability of the GPU."""
        found = []
        for attribute in (MAJOR, MINOR):
            value = ctypes.c_int()
            self.call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, 0)
            found.append(value.value)
        return found[0], found[1]

    def copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        """Enqueue a copy."""
        self.call("cudaMemcpyAsync", to, source, size, kind, stream)

    def wait(self, stream: int) -> None:
        """Wait for a stream."""
        self.call("cudaStreamSynchronize", stream)

    def elapsed(self, begin: int, end: int) -> float:
        """Seconds between two events."""
        value = ctypes.c_float()
        self.call("cudaEventElapsedTime", ctypes.byref(value), begin, end)
        return value.value / 1e3

    def mark(self, event: int, stream: int) -> None:
        """Enqueue an event."""
        self.call("cudaEventRecord", event, stream)


class Bound:
    """An execution context with memory for one feed.

    Attributes:
        inputs, outputs: (device address, host address, bytes) of what is copied for each query.
    """

    def __init__(self, trt: Any, engine: Any, cuda: Cuda, feed: Feed, profile: int) -> None:
        self.cuda = cuda
        self.stream = cuda.made("cudaStreamCreate")
        self.context = engine.create_execution_context()
        if self.context is None or not self.context.set_optimization_profile_async(profile, self.stream):
            raise Failed(6, "TensorRT makes no execution context", "check the GPU's free memory")
        self.inputs: list[tuple[int, int, int]] = []
        self.outputs: dict[str, tuple[int, int, int]] = {}
        for name, value in feed.items():
            self._accepted(self.context.set_input_shape(name, tuple(value.shape)), name)
            held = self._memory(value.nbytes)
            ctypes.memmove(held[1], value.ctypes.data, value.nbytes)
            host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
            self._accepted(self.context.set_tensor_address(name, held[1] if host else held[0]), name)
            self.inputs += [] if host else [held]
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                held = self._memory(self.context.get_max_output_size(name))
                host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
                self._accepted(self.context.set_tensor_address(name, held[1] if host else held[0]), name)
                self.outputs[name] = (0 if host else held[0], held[1], held[2])

    def _memory(self, size: int) -> tuple[int, int, int]:
        if size < 0:
            raise Failed(5, "TensorRT does not know how large an output can be", "give outputs shapes that are known")
        space = max(size, 1)
        return self.cuda.made("cudaMalloc", space), self.cuda.made("cudaMallocHost", space), size

    @staticmethod
    def _accepted(answer: bool, name: str) -> None:
        if not answer:
            raise Failed(5, f"TensorRT rejects the shape or the memory of {name!r}", "check the reference inputs")

    def copy_in(self) -> None:
        """Enqueue the copies of the inputs."""
        for device, host, size in self.inputs:
            self.cuda.copy(device, host, size, TO_DEVICE, self.stream)

    def launch(self) -> None:
        """Enqueue the kernels."""
        if not self.context.execute_async_v3(self.stream):
            raise Failed(5, "TensorRT cannot run the engine", "see the messages of TensorRT")

    def copy_out(self) -> None:
        """Enqueue the copies of the outputs."""
        for device, host, size in self.outputs.values():
            if device:
                self.cuda.copy(host, device, size, TO_HOST, self.stream)


class Engine:
    """The plan, opened on this machine's GPU."""

    def __init__(self, trt: Any, log: Any, cuda: Cuda, plan: bytes) -> None:
        self._trt, self._cuda = trt, cuda
        self._runtime = trt.Runtime(log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise Failed(5, "TensorRT does not open the plan it built: " + reasons(log), "build it again")

    def bound(self, feed: Feed) -> Bound:
        """Ready to run on ``feed``, with the first profile that admits it."""
        ready = {name: np.ascontiguousarray(value) for name, value in feed.items() if name in self._inputs()}
        return Bound(self._trt, self._engine, self._cuda, ready, self._profile(ready))

    def _inputs(self) -> list[str]:
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        return [name for name in names if self._engine.get_tensor_mode(name) != self._trt.TensorIOMode.OUTPUT]

    def _profile(self, feed: Feed) -> int:
        for index in range(self._engine.num_optimization_profiles):
            fits = True
            for name, value in feed.items():
                if -1 in tuple(self._engine.get_tensor_shape(name)):
                    low, _, high = self._engine.get_tensor_profile_shape(name, index)
                    fits &= all(a <= b <= c for a, b, c in zip(low, value.shape, high))
            if fits:
                return index
        raise Failed(5, "no optimization profile admits the reference inputs", "make the hand-over again")

    def run(self, feed: Feed) -> Feed:
        """The outputs for ``feed``, in float32 or their own integers."""
        bound = self.bound(feed)
        bound.copy_in()
        bound.launch()
        bound.copy_out()
        self._cuda.wait(bound.stream)
        return {name: self._array(bound, name, held) for name, held in bound.outputs.items()}

    def _array(self, bound: Bound, name: str, held: tuple[int, int, int]) -> np.ndarray:
        shape = tuple(bound.context.get_tensor_shape(name))
        kind = self._engine.get_tensor_dtype(name)
        try:
            dtype, bits = np.dtype(self._trt.nptype(kind)), False
        except TypeError:  # numpy lacks the type that is the upper half of float32
            dtype, bits = np.dtype(np.uint16), True
        size = int(np.prod(shape)) * dtype.itemsize
        if min(shape, default=1) < 0 or size > held[2]:
            raise Failed(5, f"output {name!r} has no shape that is known before it ran", "leave it out")
        value = np.frombuffer(ctypes.string_at(held[1], size), dtype).reshape(shape)
        return widened(value) if bits else value

    def measure(self, feed: Feed, label: str, runner: str, warm_up: float, duration: float) -> Record:
        """Time queries as trtexec does: events around the copies and the kernels, two queries in flight."""
        bound, cuda = self.bound(feed), self._cuda
        spare = [[cuda.made("cudaEventCreateWithFlags", 0) for _ in range(4)] for _ in range(DEPTH)]
        running: list[tuple[list[int], float]] = []
        queries: list[tuple[float, float, float, float]] = []

        def start() -> None:
            events = spare.pop()
            cuda.mark(events[0], bound.stream)
            bound.copy_in()
            cuda.mark(events[1], bound.stream)
            begin = time.perf_counter()
            bound.launch()
            took = time.perf_counter() - begin
            cuda.mark(events[2], bound.stream)
            bound.copy_out()
            cuda.mark(events[3], bound.stream)
            running.append((events, took))

        def end() -> tuple[float, float, float, float]:
            events, took = running.pop(0)
            cuda.call("cudaEventSynchronize", events[3])
            spare.append(events)
            return (took, *(cuda.elapsed(events[n], events[n + 1]) for n in range(3)))  # type: ignore[return-value]

        until = time.perf_counter() + warm_up
        while True:
            start()
            end()
            if time.perf_counter() >= until:
                break
        begin = time.perf_counter()
        start()
        more = True
        while more:
            more = time.perf_counter() - begin < duration or len(queries) + 1 < 10
            if more:
                start()
            queries.append(end())
        wall = time.perf_counter() - begin
        return latency_record(queries, wall, feed, label, runner, warm_up)
