"""A fake of the CUDA runtime, and engines for it: the edge of the GPU, and nothing above it.

Memory of the GPU is memory, copies copy, and what is captured runs when its graph is launched. Every call is written
down. It keeps a clock of its own for the device: work takes the time it is told, one after the other, from the moment
it is enqueued; events note that clock. A ``TimedEngine`` takes time, and a ``WorkingEngine`` computes a function.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np


class FakeCudart:
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
        self.captured = []
        self.recorded = {}
        self.devices = []
        self.pinned = set()
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

    def enqueue(self, work):
        """Do it now, or when the graph that is being written is launched."""
        if self.capturing:
            self.captured.append(work)
        else:
            work()

    def do(self, name, arguments):
        self.calls.append(name.removeprefix("cuda"))
        if name in self.fail:
            return self.fail[name]
        match name:
            case "cudaMalloc" | "cudaMallocHost":
                buffer = ctypes.create_string_buffer(arguments[1])
                address = ctypes.addressof(buffer)
                arguments[0]._obj.value = address
                self._memory[address] = buffer
                self.alive.add(address)
                if name == "cudaMallocHost":
                    self.pinned.add(address)
            case "cudaFree" | "cudaFreeHost":
                del self._memory[arguments[0]]
                self.pinned.discard(arguments[0])
                self.alive.remove(arguments[0])
            case "cudaSetDevice":
                self.devices.append(arguments[0])
            case "cudaStreamCreate" | "cudaEventCreateWithFlags":
                return self.handle(arguments[0])
            case "cudaMemcpyAsync":
                to, source, size, kind, *_ = arguments
                self.calls[-1] += {1: " in", 2: " out", 3: " within"}[kind]
                self.work(self.copy_seconds)
                self.enqueue(lambda: ctypes.memmove(to, source, size))
            case "cudaEventRecord":
                self.events[arguments[0]] = self.clock
            case "cudaEventElapsedTime":
                arguments[0]._obj.value = (self.events[arguments[2]] - self.events[arguments[1]]) * 1e3
            case "cudaStreamBeginCapture":
                self.capturing, self.pending, self.captured = True, [], []
            case "cudaStreamEndCapture":
                self.capturing = False
                if not self.captures:
                    return 901  # cudaErrorStreamCaptureInvalidated
                self.handle(arguments[1])
                self.graphs[arguments[1]._obj.value] = sum(self.pending)
            case "cudaGraphInstantiateWithFlags":
                self.handle(arguments[0])
                self.graphs[arguments[0]._obj.value] = self.graphs[arguments[1]]
                self.recorded[arguments[0]._obj.value] = list(self.captured)
            case "cudaGraphLaunch":
                self.work(self.graphs[arguments[0]])
                for work in self.recorded[arguments[0]]:
                    work()
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


class _Context:
    """What an execution context is told: the profile, shapes and addresses."""

    def __init__(self, profile):
        self.shapes, self.addresses, self.profile = {}, {}, profile
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


class TimedContext(_Context):
    """An execution context whose kernels take ``seconds``, as many launches as ``launches``."""

    def __init__(self, cuda, seconds, launches=3):
        super().__init__(None)
        self.cuda = cuda
        self.seconds = seconds
        self.launches = launches

    def get_max_output_size(self, name):
        return 4 * self.shapes["x"][0]

    def execute_async_v3(self, stream):
        self.cuda.calls.append("execute")
        for _ in range(self.launches):
            self.cuda.work(self.seconds / self.launches)
        return not self.refuse


class TimedEngine:
    """Input x[N,4] and, on the host, a shape input n[1]; output y[N]; two optimization profiles."""

    num_io_tensors = 3
    num_optimization_profiles = 2
    RANGES = {0: ((1, 4), (2, 4), (3, 4)), 1: ((4, 4), (6, 4), (8, 4))}

    def __init__(self, cuda, seconds=0.010):
        self.context = TimedContext(cuda, seconds)
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


class WorkingContext(_Context):
    """Runs ``engine.function`` on what lies at the addresses."""

    def __init__(self, engine):
        super().__init__(0)
        self.engine = engine
        self.allocators = {}

    def set_output_allocator(self, name, listener):
        self.allocators[name] = listener
        return True

    def get_tensor_shape(self, name):
        return self.engine.output_shape(name, self.shapes)

    def get_max_output_size(self, name):
        shape, dtype = self.engine.largest(name, self.shapes)
        return int(np.prod(shape)) * np.dtype(dtype).itemsize

    def execute_async_v3(self, stream):
        self.engine.cuda.calls.append("execute")
        shapes = dict(self.shapes)
        self.engine.cuda.enqueue(lambda: self._run(shapes))
        return not self.refuse

    def _run(self, shapes):
        given = {name: self._at(name, shape) for name, shape in shapes.items()}
        for name, value in self.engine.function(given).items():
            assert value.dtype == self.engine.tensors[name][1], "the test's function gives the engine's types"
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
            if name in self.allocators:
                self.allocators[name].notify_shape(name, value.shape)

    def _at(self, name, shape):
        dtype = np.dtype(self.engine.tensors[name][1])
        size = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer(ctypes.string_at(self.addresses[name], size), dtype).reshape(shape)


class WorkingEngine:
    """An engine of one function.

    Args:
        tensors: name -> ("in" or "out", numpy's name of the type, shape with -1 where it varies, "host" or "device").
        profiles: input -> (min, opt, max), for each profile.
        function: input name -> array, to output name -> array.
    """

    TYPES = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64", "int32": "INT32", "uint8": "UINT8"}

    def __init__(self, cuda, tensors, profiles, function, most=16):
        self.cuda, self.tensors, self.profiles, self.function, self.most = cuda, tensors, profiles, function, most
        self.num_io_tensors = len(tensors)
        self.num_optimization_profiles = len(profiles)
        self.contexts = []

    def create_execution_context(self, runtime_config=None):
        self.contexts.append(WorkingContext(self))
        return self.contexts[-1]

    def create_runtime_config(self):
        return SimpleNamespace()

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        return self.tensors[name][0]

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self.TYPES[self.tensors[name][1]])

    def get_tensor_location(self, name):
        return self.tensors[name][3]

    def is_shape_inference_io(self, name):
        return self.tensors[name][3] == "host"

    def get_tensor_profile_shape(self, name, index):
        return self.profiles[index].get(name, (self.tensors[name][2],) * 3)

    def output_shape(self, name, shapes):
        """-1 is the length of the first input's first axis; -2 depends on the data, and is not known before."""
        batch = next(iter(shapes.values()))[0]
        return tuple({-1: batch, -2: -1}.get(dim, dim) for dim in self.tensors[name][2])

    def largest(self, name, shapes):
        shape = self.output_shape(name, shapes)
        return tuple(self.most if dim == -1 else dim for dim in shape), self.tensors[name][1]


class _Allocator:
    pass


TRT = SimpleNamespace(
    TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
    TensorLocation=SimpleNamespace(HOST="host", DEVICE="device"),
    IOutputAllocator=_Allocator,
    __version__="11.4",
)


class OnDevice:
    """Somebody else's array on the GPU: what torch or CuPy would hand over."""

    def __init__(self, cuda, array, device=0):
        from trtpipe.backends import dlpack

        self.cuda, self.array, self.device, self.streams = cuda, np.ascontiguousarray(array), device, []
        self._export = dlpack.exported

    def __dlpack__(self, *, stream=None):
        self.streams.append(stream)
        return self._export(
            self.array.ctypes.data, self.array.shape, self.array.dtype.name, self.__dlpack_device__(), self.array
        )

    def __dlpack_device__(self):
        return 2, self.device
