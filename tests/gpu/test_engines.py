"""Engines on a real GPU: opened, run, and compared with onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest

from trtpipe.backends.base import load_backend
from trtpipe.backends.gpu import gpus
from trtpipe.errors import HostError, InputError

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU")]


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
        with pytest.raises(InputError, match="no optimization profile admits x:6x3x16x16"):
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
    with pytest.raises(HostError, match="cannot be opened on this machine"), backend.open(plan, settings):
        pass
