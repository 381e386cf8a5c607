"""Engines on a real GPU, built by each TensorRT flavor that is installed: ``pytest -m gpu``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

from trtpipe.backends.base import Backend, EngineRequest, load_backend, missing
from trtpipe.backends.gpu import gpus
from trtpipe.config.profile import DeploymentProfile, ShapeRange
from trtpipe.config.settings import Settings
from trtpipe.config.target import find_target
from trtpipe.progress import NullProgress


class Built(NamedTuple):
    """An engine for this machine's GPU, and what it was built from."""

    backend: Backend
    model: Path
    plan: Path
    settings: Settings


def images(low: int, mid: int, high: int) -> dict[str, ShapeRange]:
    low_shape, mid_shape, high_shape = ((batch, 3, 16, 16) for batch in (low, mid, high))
    return {"x": ShapeRange(min=low_shape, opt=mid_shape, max=high_shape)}


PROFILE = DeploymentProfile(shapes=(images(1, 2, 4), images(8, 8, 16)))


@pytest.fixture(scope="session")
def flavor() -> str:
    """The TensorRT of this run: one process opens engines of one flavor, so test_flavors.py starts another run."""
    installed = [name for name in ("tensorrt", "tensorrt-rtx") if missing(name) is None]
    if not installed:
        pytest.skip("no TensorRT is installed")
    return os.environ.get("TRTPIPE_TEST_FLAVOR", installed[0])


@pytest.fixture
def built(flavor: str, tmp_path: Path) -> Built:
    backend, target = load_backend(flavor), find_target(gpus()[0].target)
    weights = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float16)
    model = parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[N,3,16,16] x) => (float[N,8,16,16] y) '
        "{ a = Cast<to=10>(x) c = Conv<pads=[1,1,1,1]>(a, w) r = Relu(c) y = Cast<to=1>(r) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    path, plan = tmp_path / "model.onnx", tmp_path / "e.plan"
    onnx.save(model, path)
    settings = Settings(cache_dir=tmp_path)
    refusal = backend.refuses(path, PROFILE, target)
    if refusal is not None:
        pytest.skip(refusal.reason)
    backend.build(EngineRequest(path, PROFILE, (target,), plan, settings), NullProgress()).write(
        tmp_path / "e.plan.json"
    )
    return Built(backend, path, plan, settings)
