"""A recording fake of the CUDA runtime and of an engine's execution: the edge of the GPU, and nothing above it.

It keeps a clock of its own for the device: work takes the time it is told, one after the other, from the moment it is
enqueued; events note that clock. Every call is written down.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace


class RecordingCudart:
    """What ctypes would have loaded. Functions accept ``argtypes`` as ctypes' do, and check the number of arguments."""

    def __init__(self, copy_seconds=0.002, captures=True):
        self.calls = []
        self.clock = 0.0
        self.events = {}
        self.alive = set()
        self.capturing = False
        self.pending = []
        self.graphs = {}
        self.captures = captures
        self.copy_seconds = copy_seconds
        self.capabilities = [(8, 9)]
        self.fail = {}
        self._last = 1000
        self._memory = {}

    def __getattr__(self, name):
        if not name.startswith("cuda"):
            raise AttributeError(name)
        function = _Function(name, self)
        setattr(self, name, function)
        return function

    def handle(self, to):
        self._last += 8
        to._obj.value = self._last
        self.alive.add(self._last)
        return 0

    def work(self, seconds):
        """Time on the device, or in the graph that is being written."""
        if self.capturing:
            self.pending.append(seconds)
        else:
            self.clock += seconds

    def do(self, name, arguments):
        self.calls.append(name.removeprefix("cuda"))
        if name in self.fail:
            return self.fail[name]
        match name:
            case "cudaMallocHost":
                size = arguments[1]
                buffer = ctypes.create_string_buffer(size)
                arguments[0]._obj.value = ctypes.addressof(buffer)
                self._memory[ctypes.addressof(buffer)] = buffer
                self.alive.add(ctypes.addressof(buffer))
            case "cudaMalloc" | "cudaStreamCreate" | "cudaEventCreateWithFlags":
                return self.handle(arguments[0])
            case "cudaMemcpyAsync":
                self.calls[-1] += {1: " in", 2: " out", 3: " within"}[arguments[3]]
                self.work(self.copy_seconds)
            case "cudaEventRecord":
                self.events[arguments[0]] = self.clock
            case "cudaEventElapsedTime":
                arguments[0]._obj.value = (self.events[arguments[2]] - self.events[arguments[1]]) * 1e3
            case "cudaStreamBeginCapture":
                self.capturing, self.pending = True, []
            case "cudaStreamEndCapture":
                self.capturing = False
                if not self.captures:
                    return 901  # cudaErrorStreamCaptureInvalidated
                self.handle(arguments[1])
                self.graphs[arguments[1]._obj.value] = sum(self.pending)
            case "cudaGraphInstantiateWithFlags":
                self.handle(arguments[0])
                self.graphs[arguments[0]._obj.value] = self.graphs[arguments[1]]
            case "cudaGraphLaunch":
                self.work(self.graphs[arguments[0]])
            case "cudaGetDeviceCount":
                arguments[0]._obj.value = len(self.capabilities)
            case "cudaDeviceGetAttribute":
                arguments[0]._obj.value = self.capabilities[arguments[2]][arguments[1] - 75]
            case "cudaGetDevice":
                arguments[0]._obj.value = 0
            case "cudaDeviceGetPCIBusId":
                arguments[0].value = b"0000:65:00.0"
            case "cudaGetErrorString":
                return b"out of memory" if arguments[0] == 2 else b"unknown"
            case _ if "Free" in name or "Destroy" in name:
                self.alive.remove(arguments[0])
        return 0


class _Function:
    def __init__(self, name, library):
        self._name = name
        self._library = library
        self.argtypes = None
        self.restype = None

    def __call__(self, *arguments):
        if self.argtypes is not None:
            assert len(arguments) == len(self.argtypes), f"{self._name}: {len(arguments)} arguments"
        return self._library.do(self._name, arguments)


class RecordingContext:
    """An execution context whose kernels take ``seconds``, as many launches as ``launches``."""

    def __init__(self, cuda, seconds, launches=3):
        self.cuda = cuda
        self.seconds = seconds
        self.launches = launches
        self.shapes, self.addresses, self.profile = {}, {}, None
        self.refuse = False

    def set_optimization_profile_async(self, index, stream):
        self.profile = index
        return True

    def set_input_shape(self, name, shape):
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def get_max_output_size(self, name):
        return 4 * self.shapes["x"][0]

    def execute_async_v3(self, stream):
        self.cuda.calls.append("execute")
        for _ in range(self.launches):
            self.cuda.work(self.seconds / self.launches)
        return not self.refuse


class RecordingEngine:
    """Input x[N,4] and, on the host, a shape input n[1]; output y[N]; two optimization profiles."""

    num_io_tensors = 3
    num_optimization_profiles = 2
    RANGES = {0: ((1, 4), (2, 4), (3, 4)), 1: ((4, 4), (6, 4), (8, 4))}

    def __init__(self, cuda, seconds=0.010):
        self.context = RecordingContext(cuda, seconds)
        self.config = None

    def create_runtime_config(self):
        return SimpleNamespace()

    def create_execution_context(self, runtime_config=None):
        self.config = runtime_config
        return self.context

    def get_tensor_name(self, index):
        return "xny"[index]

    def get_tensor_mode(self, name):
        return "out" if name == "y" else "in"

    def get_tensor_location(self, name):
        return "host" if name == "n" else "device"

    def get_tensor_shape(self, name):
        return {"x": (-1, 4), "n": (1,), "y": (-1,)}[name]

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name="INT64" if name == "n" else "FLOAT")

    def is_shape_inference_io(self, name):
        return name == "n"

    def get_tensor_profile_shape(self, name, index):
        return self.RANGES[index]


TRT = SimpleNamespace(
    TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
    TensorLocation=SimpleNamespace(HOST="host", DEVICE="device"),
    __version__="11.4",
)
