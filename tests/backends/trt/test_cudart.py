"""Our calls of the CUDA runtime, against what its headers declare, and against the library itself where it is there."""

from __future__ import annotations

import ctypes
import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_cuda import FakeCudart

from trtpipe.backends.gpu import has_driver
from trtpipe.backends.trt import cudart
from trtpipe.backends.trt.cudart import CALLS, Cudart, load
from trtpipe.errors import HostError, StageError

SNAPSHOT = json.loads(Path(__file__).with_name("cudart_api.json").read_text(encoding="utf-8"))
HANDLES = {"cudaEvent_t", "cudaStream_t", "cudaGraph_t", "cudaGraphExec_t"}
#: How CUDA's types travel through ctypes.
KINDS = {
    ctypes.c_void_p: {*HANDLES, "void *", "const void *"},
    ctypes.POINTER(ctypes.c_void_p): {*(f"{handle} *" for handle in HANDLES), "void **"},
    ctypes.c_int: {"int", "enum cudaMemcpyKind", "enum cudaStreamCaptureMode", "enum cudaDeviceAttr"},
    ctypes.c_uint: {"unsigned int"},
    ctypes.c_ulonglong: {"unsigned long long", "size_t"},  # one type for ctypes, where both have 64 bits
    ctypes.POINTER(ctypes.c_float): {"float *"},
    ctypes.POINTER(ctypes.c_int): {"int *"},
    ctypes.c_char_p: {"char *"},
}


@pytest.mark.parametrize("version", SNAPSHOT)
def test_every_call_is_declared_with_the_types_that_are_passed(version):
    assert set(SNAPSHOT[version]) == {*CALLS, "cudaGetErrorString"}
    for name, types in CALLS.items():
        declared = SNAPSHOT[version][name]
        assert len(declared) == len(types), name
        for given, wanted in zip(types, declared, strict=True):
            assert wanted in KINDS[given], f"{name}: {wanted} passed as {given}"


def test_every_method_passes_as_many_arguments_as_declared():
    """The fake checks the count; here every method is called once."""
    library = FakeCudart()
    cuda = Cudart(library)
    with ExitStack() as stack:
        stream, first, second = cuda.stream(stack), cuda.event(stack), cuda.event(stack)
        device, host = cuda.malloc(4, stack), cuda.malloc_host(4, stack)
        cuda.record(first, stream)
        cuda.begin_capture(stream)
        cuda.copy(device, host, 4, cudart.TO_DEVICE, stream)
        cuda.launch(cuda.end_capture(stream, stack), stream)
        cuda.record(second, stream)
        cuda.wait_event(second)
        cuda.wait_stream(stream)
        assert cuda.elapsed(first, second) == pytest.approx(0.002)
        assert len(library.alive) == 6, "with the graph"
    assert cuda.bus_id() == "0000:65:00.0"
    cuda.use(0)
    assert cuda.capabilities() == ((8, 9),)
    made = {call.split()[0] for call in library.calls}
    assert made == {name.removeprefix("cuda") for name in CALLS} - {"GetLastError"}
    assert library.alive == set()


def test_a_library_without_one_of_the_calls_is_refused(monkeypatch):
    from polygraphy import cuda

    monkeypatch.setattr(cuda, "wrapper", type("W", (), {"handle": ctypes.CDLL(None)}))
    with pytest.raises(HostError, match="libcudart"):
        load()


def test_a_machine_without_the_library_is_told_what_to_install(monkeypatch):
    from polygraphy import cuda

    def absent():
        raise OSError("libcudart.so: cannot open shared object file")

    monkeypatch.setattr(cuda, "wrapper", absent)
    with pytest.raises(HostError, match="cannot open shared object") as caught:
        load()
    assert "nvidia-cuda-runtime" in caught.value.remedy


@pytest.mark.skipif(has_driver(), reason="this machine has a CUDA driver")
def test_the_real_library_has_every_call_and_says_that_there_is_no_driver():
    try:
        cuda = load()
    except HostError:
        pytest.skip("the CUDA runtime library is not installed")
    with (
        ExitStack() as stack,
        pytest.raises(StageError, match=r"cudaStreamCreate fails: .*driver.* \(cudaError 35\)"),
    ):
        cuda.stream(stack)
    from polygraphy.cuda import wrapper
    from polygraphy.exception import PolygraphyException

    with pytest.raises(PolygraphyException, match="CUDA Error: 35"):  # its calls still pass what ctypes takes
        wrapper().create_stream()


class TestFinding:
    def test_a_machine_without_it_says_what_to_install(self, monkeypatch):
        def absent(name):
            raise OSError(f"{name}: cannot open shared object file")

        monkeypatch.setattr(cudart.ctypes, "CDLL", absent)
        with pytest.raises(HostError, match="libcudart") as caught:
            cudart.find()
        assert "nvidia-cuda-runtime" in caught.value.remedy

    def test_a_wheel_of_nvidia_s_is_found_where_the_system_has_none(self, monkeypatch, tmp_path):
        library = tmp_path / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12"
        library.parent.mkdir(parents=True)
        library.touch()
        asked = []

        def only(name):
            asked.append(name)
            if name != str(library):
                raise OSError(name)
            return FakeCudart()

        monkeypatch.setattr(cudart.ctypes, "CDLL", only)
        monkeypatch.syspath_prepend(str(tmp_path))
        assert cudart.find().capabilities() == ((8, 9),)
        assert asked[-1] == str(library)
