"""The runner without a GPU: how it binds Polygraphy, what it says of a plan that does not load, and its bookkeeping."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from trtpipe.backends import base
from trtpipe.backends.gpu import has_driver
from trtpipe.backends.timing import DeviceState
from trtpipe.backends.trt import runner
from trtpipe.backends.trt.runner import EngineRunner
from trtpipe.errors import InputError

needs_rtx = pytest.mark.skipif(base.missing("tensorrt-rtx") is not None, reason="needs tensorrt-rtx")
RANGES = {0: ((1, 4), (2, 4), (3, 4)), 1: ((4, 4), (6, 4), (8, 4))}


class Engine:
    """What EngineRunner asks of TensorRT's engine: input x, output y, two profiles."""

    num_io_tensors = 2
    num_optimization_profiles = 2

    def get_tensor_name(self, index):
        return "xy"[index]

    def get_tensor_mode(self, name):
        return {"x": "in", "y": "out"}[name]

    def get_tensor_shape(self, name):
        return (-1, 4)

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name={"x": "FLOAT", "y": "INT32"}[name])

    def is_shape_inference_io(self, name):
        return False

    def get_tensor_profile_shape(self, name, index):
        return RANGES[index]


class Buffered:
    """A runner that, as Polygraphy's, answers with the same buffer every time."""

    def __init__(self):
        self.profiles = []
        self.buffer = np.zeros(1, np.int32)

    def set_profile(self, index):
        self.profiles.append(index)

    def infer(self, feed):
        self.buffer[0] = len(feed["x"])
        return {"y": self.buffer}


@pytest.fixture
def pair():
    trt = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="in"), __version__="11.4")
    buffered = Buffered()
    return EngineRunner(trt, Engine(), buffered, "e.plan", "tensorrt"), buffered


def feed(batch):
    return {"x": np.zeros((batch, 4), np.float32)}


def test_specs(pair):
    runner, _ = pair
    assert [str(spec) for spec in runner.inputs] == ["x: float32[?x4]"]
    assert [str(spec) for spec in runner.outputs] == ["y: int32[?x4]"]
    assert runner.device.startswith("tensorrt 11.4 on ")


@pytest.mark.parametrize(
    ("names", "told", "words"),
    [
        ([], None, "GPU"),
        (["NVIDIA L4", "NVIDIA L4"], None, "NVIDIA L4"),
        (["NVIDIA T4", "NVIDIA L4"], "NVIDIA L4", "NVIDIA L4"),
        (["NVIDIA T4", "NVIDIA L4"], None, "NVIDIA T4 or NVIDIA L4"),
    ],
)
def test_the_gpu_that_ran_is_named_not_the_first_in_the_machine(pair, monkeypatch, names, told, words):
    monkeypatch.setattr(runner, "gpus", lambda: [SimpleNamespace(name=name) for name in names])
    monkeypatch.setattr(EngineRunner, "state", lambda self: told and DeviceState(name=told))
    assert pair[0].device == f"tensorrt 11.4 on {words}"


def test_the_profile_follows_the_feed(pair):
    runner, buffered = pair
    for batch in (1, 3, 4, 8, 2):
        runner.infer(feed(batch))
    assert buffered.profiles == [1, 0]


def test_arrays_become_contiguous_and_scalars_stay_scalars(pair):
    runner, buffered = pair
    fed = []
    buffered.infer = lambda feed: fed.append(feed) or {"y": np.zeros(1)}
    strided = np.zeros((4, 2), np.float32).T
    runner.infer({"x": strided})
    assert fed[0]["x"].flags.c_contiguous
    admitted, _ = runner._admitted({"x": strided})
    assert admitted["x"].shape == (2, 4)
    runner._fits = lambda name, shape, index: True
    assert runner._admitted({"x": np.array(3.0)})[0]["x"].shape == ()


def test_results_are_copies(pair):
    runner, _ = pair
    first = runner.infer(feed(1))["y"]
    runner.infer(feed(2))
    assert first[0] == 1


def test_a_feed_that_does_not_fit(pair):
    runner, _ = pair
    with pytest.raises(InputError, match="no optimization profile admits x:9x4"):
        runner.infer(feed(9))
    with pytest.raises(InputError, match="feed names"):
        runner.infer({"z": np.zeros(1, np.float32)})


@needs_rtx
@pytest.mark.skipif(has_driver(), reason="this machine has a CUDA driver")
def test_a_plan_that_does_not_load_says_why(tmp_path):
    (tmp_path / "e.plan").write_bytes(b"no plan at all" * 100)
    code = (
        "import sys; from pathlib import Path; import tensorrt_rtx as trt;"
        "from trtpipe.backends.trt.runner import open_engine\n"
        "with open_engine(trt, Path(sys.argv[1]), 'tensorrt-rtx'): pass"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "e.plan")], capture_output=True, text=True, check=False
    )
    said = [line for line in answer.stderr.splitlines() if line.startswith("trtpipe.errors.HostError: ")]
    assert said[-1].startswith("trtpipe.errors.HostError: e.plan: cannot be opened on this machine: ")
    assert answer.stdout == ""


@needs_rtx
def test_one_flavor_a_process():
    code = (
        "import types, tensorrt_rtx as trt; from trtpipe.backends.trt.runner import _bind_polygraphy\n"
        "_bind_polygraphy(trt, rtx=True); _bind_polygraphy(trt, rtx=True)\n"
        "other = types.SimpleNamespace(Runtime=object)\n"
        "_bind_polygraphy(other, rtx=False)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "HostError: this process has already opened an engine of the other TensorRT flavor" in answer.stderr
