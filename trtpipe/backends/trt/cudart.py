"""The few calls of the CUDA runtime that timing and inference need: devices, events, graphs and pinned memory.

Polygraphy finds and loads the library for timing; its own wrapper lacks most of these calls. Types are those of
``cuda_runtime_api.h``, equal in CUDA 12 and 13.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trtpipe.errors import HostError, StageError

if TYPE_CHECKING:
    from contextlib import ExitStack

LIBRARY_REMEDY = (
    "install the CUDA toolkit or pip install nvidia-cuda-runtime-cu12, and add its folder to LD_LIBRARY_PATH"
)

_pointer, _result = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)

#: call -> types of its arguments; all return cudaError_t.
CALLS: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "cudaMalloc": (_result, ctypes.c_size_t),
        "cudaFree": (_pointer,),
        "cudaMallocHost": (_result, ctypes.c_size_t),
        "cudaFreeHost": (_pointer,),
        "cudaMemcpyAsync": (_pointer, _pointer, ctypes.c_size_t, ctypes.c_int, _pointer),
        "cudaStreamCreate": (_result,),
        "cudaStreamSynchronize": (_pointer,),
        "cudaStreamDestroy": (_pointer,),
        "cudaEventCreateWithFlags": (_result, ctypes.c_uint),
        "cudaEventRecord": (_pointer, _pointer),
        "cudaEventSynchronize": (_pointer,),
        "cudaEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _pointer, _pointer),
        "cudaEventDestroy": (_pointer,),
        "cudaStreamBeginCapture": (_pointer, ctypes.c_int),
        "cudaStreamEndCapture": (_pointer, _result),
        "cudaGraphInstantiateWithFlags": (_result, _pointer, ctypes.c_ulonglong),
        "cudaGraphLaunch": (_pointer, _pointer),
        "cudaGraphExecDestroy": (_pointer,),
        "cudaGraphDestroy": (_pointer,),
        "cudaGetLastError": (),
        "cudaGetDeviceCount": (ctypes.POINTER(ctypes.c_int),),
        "cudaSetDevice": (ctypes.c_int,),
        "cudaDeviceGetAttribute": (ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int),
        "cudaGetDevice": (ctypes.POINTER(ctypes.c_int),),
        "cudaDeviceGetPCIBusId": (ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    }
)
TO_DEVICE, TO_HOST, ON_DEVICE = 1, 2, 3  # cudaMemcpyKind
_CAPABILITY = 75, 76  # cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor
#: The library by its names, newest first.
_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
_SPIN = 0  # cudaEventDefault: the waiting thread spins, as in trtexec, which adds the least overhead
_THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal


class Cudart:
    """The CUDA runtime; handles and addresses are plain integers, and 0 is none.

    What is created with an ExitStack is destroyed when that closes. Every method raises StageError, with CUDA's
    message, if CUDA returns an error.

    Args:
        library: as ctypes loaded it.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        library.cudaGetErrorString.restype = ctypes.c_char_p
        for name, types in CALLS.items():
            getattr(library, name).argtypes = types

    def malloc(self, size: int, stack: ExitStack) -> int:
        """Memory on the GPU; at least one byte."""
        return self._made(stack, "cudaFree", "cudaMalloc", max(size, 1))

    def malloc_host(self, size: int, stack: ExitStack) -> int:
        """Pinned host memory, which copies asynchronously; at least one byte."""
        return self._made(stack, "cudaFreeHost", "cudaMallocHost", max(size, 1))

    def stream(self, stack: ExitStack) -> int:
        """A new stream."""
        return self._made(stack, "cudaStreamDestroy", "cudaStreamCreate")

    def event(self, stack: ExitStack) -> int:
        """A new event; waiting for it spins."""
        return self._made(stack, "cudaEventDestroy", "cudaEventCreateWithFlags", _SPIN)

    def copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        """Enqueue a copy; ``kind`` is TO_DEVICE, TO_HOST or ON_DEVICE."""
        self._call("cudaMemcpyAsync", to, source, size, kind, stream)

    def wait_stream(self, stream: int) -> None:
        """Wait until all enqueued work is done."""
        self._call("cudaStreamSynchronize", stream)

    def record(self, event: int, stream: int) -> None:
        """Enqueue: record the time."""
        self._call("cudaEventRecord", event, stream)

    def wait_event(self, event: int) -> None:
        """Wait until it is recorded."""
        self._call("cudaEventSynchronize", event)

    def elapsed(self, start: int, end: int) -> float:
        """Seconds between two recorded events."""
        ms = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(ms), start, end)
        return ms.value / 1e3

    def begin_capture(self, stream: int) -> None:
        """Capture what this thread enqueues from now on, instead of executing it."""
        self._call("cudaStreamBeginCapture", stream, _THREAD_LOCAL)

    def end_capture(self, stream: int, stack: ExitStack) -> int:
        """The captured graph, ready to launch; 0 if something cannot be captured."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        failed = self._library.cudaStreamEndCapture(stream, ctypes.byref(graph))
        if graph.value and not failed:
            failed = self._library.cudaGraphInstantiateWithFlags(ctypes.byref(executable), graph.value, 0)
            self._call("cudaGraphDestroy", graph.value)
        if failed or not executable.value:
            self._library.cudaGetLastError()  # a failed capture must not be reported by later calls
            return 0
        stack.callback(self._call, "cudaGraphExecDestroy", executable.value)
        return executable.value

    def launch(self, graph: int, stream: int) -> None:
        """Enqueue a graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def bus_id(self) -> str:
        """The PCI address of the current GPU, in NVML's format: ``0000:65:00.0``."""
        device, text = ctypes.c_int(), ctypes.create_string_buffer(32)
        self._call("cudaGetDevice", ctypes.byref(device))
        self._call("cudaDeviceGetPCIBusId", text, len(text), device.value)
        return text.value.decode()

    def capabilities(self) -> tuple[tuple[int, int], ...]:
        """The compute capability of each GPU, (major, minor)."""
        count = ctypes.c_int()
        self._call("cudaGetDeviceCount", ctypes.byref(count))
        return tuple(self._capability(device) for device in range(count.value))

    def use(self, device: int) -> None:
        """What this thread calls from now on is for that GPU."""
        self._call("cudaSetDevice", device)

    def _capability(self, device: int) -> tuple[int, int]:
        values = ctypes.c_int(), ctypes.c_int()
        for value, attribute in zip(values, _CAPABILITY, strict=True):
            self._call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, device)
        return values[0].value, values[1].value

    def _made(self, stack: ExitStack, destroy: str, create: str, *arguments: Any) -> int:
        """The handle that ``create`` gives; ``destroy`` is called with it when ``stack`` closes."""
        handle = ctypes.c_void_p()
        self._call(create, ctypes.byref(handle), *arguments)
        stack.callback(self._call, destroy, handle.value)
        return handle.value or 0

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._library, name)(*arguments):
            text = self._library.cudaGetErrorString(status) or b"an unknown error"
            raise StageError(
                f"{name} fails: {text.decode(errors='replace')} (cudaError {status})",
                "check nvidia-smi: the GPU's memory may be in use, or its driver too old",
            )


def find() -> Cudart:
    """The CUDA runtime of this machine: the system's, else that of NVIDIA's wheels. Imports nothing.

    Raises:
        HostError: it is missing, or lacks one of the calls.
    """
    spec = importlib.util.find_spec("nvidia")
    wheels = [Path(folder) for folder in (spec.submodule_search_locations or () if spec else ())]
    paths = [str(path) for wheel in wheels for path in sorted(wheel.glob("*/lib/libcudart.so.*"), reverse=True)]
    reason: Exception | None = None
    for name in (*_LIBRARIES, *paths):
        try:
            return Cudart(ctypes.CDLL(name))
        except (OSError, AttributeError) as error:
            reason = reason or error
    raise HostError(f"the CUDA runtime library (libcudart) cannot be used: {reason}", LIBRARY_REMEDY) from reason


def load() -> Cudart:
    """The CUDA runtime that Polygraphy uses.

    Raises:
        HostError: it is missing, or lacks one of the calls.
    """
    from polygraphy import cuda
    from polygraphy.exception import PolygraphyException

    try:
        return Cudart(cuda.wrapper().handle)
    except (OSError, AttributeError, PolygraphyException) as error:
        raise HostError(f"the CUDA runtime library (libcudart) cannot be used: {error}", LIBRARY_REMEDY) from error
