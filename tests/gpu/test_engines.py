"""Engines on a real GPU: built by each TensorRT flavour that is installed, opened, and compared with onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

from trtpipe.backends.base import load_backend, missing
from trtpipe.backends.gpu import gpus
from trtpipe.errors import EnvironmentLacks, InputError
from trtpipe.profile import DeploymentProfile, ShapeRange
from trtpipe.progress import Silent
from trtpipe.settings import Settings
from trtpipe.target import find_target

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU")]


def images(low: int, mid: int, high: int) -> dict[str, ShapeRange]:
    low_shape, mid_shape, high_shape = ((batch, 3, 16, 16) for batch in (low, mid, high))
    return {"x": ShapeRange(min=low_shape, opt=mid_shape, max=high_shape)}


PROFILE = DeploymentProfile(shapes=(images(1, 2, 4), images(8, 8, 16)))


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def built(request, tmp_path):
    """(back-end, model, plan, settings) for this machine's GPU."""
    if missing(request.param) is not None:
        pytest.skip(f"{request.param} is not installed")
    backend, target = load_backend(request.param), find_target(gpus()[0].target)
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
    backend.build(path, PROFILE, target, plan, settings, Silent())
    return backend, path, plan, settings


@pytest.mark.parametrize("batch", [1, 3, 4, 8, 16])
def test_outputs_agree_with_onnxruntime(built, batch):
    backend, model, plan, settings = built
    feed = {"x": np.random.default_rng(batch).normal(size=(batch, 3, 16, 16)).astype(np.float32)}
    with load_backend("onnxruntime").open(model, settings) as reference:
        expected = reference.infer(feed)["y"]
    with backend.open(plan, settings) as runner:
        assert backend.name in runner.device
        found = runner.infer(feed)["y"]
        again = runner.infer(feed)["y"]
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=0.05, rtol=0.01)
    np.testing.assert_array_equal(found, again)


def test_profiles_change_between_feeds(built):
    backend, _, plan, settings = built
    with backend.open(plan, settings) as runner:
        for batch in (2, 16, 1, 8):
            assert runner.infer({"x": np.ones((batch, 3, 16, 16), np.float32)})["y"].shape == (batch, 8, 16, 16)
        with pytest.raises(InputError, match="no optimisation profile admits x:6x3x16x16"):
            runner.infer({"x": np.ones((6, 3, 16, 16), np.float32)})


def test_results_outlive_the_next_run(built):
    backend, _, plan, settings = built
    with backend.open(plan, settings) as runner:
        first = runner.infer({"x": np.ones((2, 3, 16, 16), np.float32)})["y"]
        kept = first.copy()
        runner.infer({"x": np.zeros((2, 3, 16, 16), np.float32)})
    np.testing.assert_array_equal(first, kept)


def test_a_damaged_plan_does_not_open(built):
    backend, _, plan, settings = built
    plan.write_bytes(plan.read_bytes()[: plan.stat().st_size // 2])
    with pytest.raises(EnvironmentLacks, match="cannot be opened on this machine"), backend.open(plan, settings):
        pass
