"""A CUDA runtime and an engine that work: memory of the GPU is memory, copies copy, and kernels are a Python function.

Whatever is above the calls can be proved with them to move the right bytes at the right time: work that is captured
runs when its graph is launched, and memory that was given back is gone.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
from recording_cuda import RecordingCudart


class WorkingCudart(RecordingCudart):
    """Does what it is told, in host memory."""

    def __init__(self, **options):
        super().__init__(**options)
        self.captured = []
        self.recorded = {}
        self.devices = []

    def do(self, name, arguments):
        match name:
            case "cudaMalloc" | "cudaMallocHost":
                self.calls.append(name.removeprefix("cuda"))
                if name in self.fail:
                    return self.fail[name]
                buffer = ctypes.create_string_buffer(arguments[1])
                address = ctypes.addressof(buffer)
                arguments[0]._obj.value = address
                self._memory[address] = buffer
                self.alive.add(address)
                return 0
            case "cudaFree" | "cudaFreeHost":
                self._memory.pop(arguments[0])
            case "cudaMemcpyAsync":
                to, source, size, *_ = arguments
                self.enqueue(lambda: ctypes.memmove(to, source, size))
            case "cudaStreamBeginCapture":
                self.captured = []
            case "cudaSetDevice":
                self.devices.append(arguments[0])
        answer = super().do(name, arguments)
        if name == "cudaGraphInstantiateWithFlags":
            self.recorded[arguments[0]._obj.value] = list(self.captured)
        if name == "cudaGraphLaunch":
            for work in self.recorded[arguments[0]]:
                work()
        return answer

    def enqueue(self, work):
        """Do it now, or when the graph is launched."""
        if self.capturing:
            self.captured.append(work)
        else:
            work()


class WorkingContext:
    """Runs ``engine.function`` on what lies at the addresses."""

    def __init__(self, engine):
        self.engine = engine
        self.shapes, self.addresses, self.allocators = {}, {}, {}
        self.profile = 0
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
    __version__="1.7.1.116",
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
