"""One package of a real build, made once, and a GPU that works in host memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from fake_cuda import TRT, FakeCudart, WorkingEngine
from fixtures_builds import build, built_world  # noqa: F401
from models import conv_net, run, save
from world import World, write_data

import trtpipe
from trtpipe.backends import gpu, inference
from trtpipe.backends.trt import cudart, flavor
from trtpipe.runtime.plans import Machine

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def real_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small net in int8, with an engine that TensorRT-RTX built for sm89."""
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path_factory.mktemp("real")
    save(conv_net(), folder / "net.onnx")
    write_data(folder)
    world = World(folder)
    result = trtpipe.build(world.job(backend="tensorrt-rtx"), folder / "out")
    assert result.verdict.exit_code == 0
    return folder / "out"


@pytest.fixture(scope="session")
def package(real_build: Path) -> Path:
    out = real_build.with_name("package")
    trtpipe.make_package(real_build, out, samples=real_build.with_name("calib.npz"))
    return out


@pytest.fixture
def lowered(package: Path):
    """What the lowered graph computes, by onnxruntime alone."""
    model = onnx.load(package / "lowered.onnx")
    return lambda x: run(model, {"x": x})["y"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, lowered) -> SimpleNamespace:
    """An sm89 GPU with TensorRT-RTX, on which every plan computes what the lowered graph does."""
    here = SimpleNamespace(cuda=FakeCudart(), plans=[], function=lambda feed: {"y": lowered(feed["x"])})
    here.compute = lambda feed: here.function(dict(feed))

    class Runtime:
        def __init__(self, logger: object) -> None:
            pass

        def deserialize_cuda_engine(self, plan: bytes) -> WorkingEngine:
            here.plans.append(plan)
            tensors = {"x": ("in", "float32", (-1, 3, 8, 8), "device"), "y": ("out", "float32", (-1, 5), "device")}
            profile = {"x": ((1, 3, 8, 8), (2, 3, 8, 8), (8, 3, 8, 8))}
            return WorkingEngine(here.cuda, tensors, [profile], here.compute)

    class Logger:
        ERROR, WARNING = 1, 2

        def __init__(self) -> None:
            pass

    module = SimpleNamespace(**vars(TRT), Runtime=Runtime, ILogger=Logger, init_libnvinfer_plugins=lambda *_: True)
    monkeypatch.setattr(flavor, "load", lambda name: module)
    monkeypatch.setattr(cudart, "find", lambda: cudart.Cudart(here.cuda))
    monkeypatch.setattr(gpu, "has_driver", lambda: True)
    monkeypatch.setattr(
        Machine, "here", classmethod(lambda cls, capability: cls(capability, {"tensorrt-rtx": "1.7.1.116"}))
    )
    assert inference.device_capabilities() == ((8, 9),)
    return here


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)
