"""Engines on a real GPU, timed: figures that agree with one another, and with Polygraphy's wall clock."""

from __future__ import annotations

import numpy as np
import pytest

import trtpipe
from trtpipe.backends.gpu import gpus
from trtpipe.backends.trt import cudart
from trtpipe.backends.trt.nvml import read_state
from trtpipe.config.profile import LatencySettings
from trtpipe.latency.alternating import alternate, evaluate
from trtpipe.latency.measuring import measure
from trtpipe.latency.reports import LatencyReport
from trtpipe.progress import NullProgress

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU")]

SHORT = LatencySettings(warmup=0.05, duration=0.3)


def feed(batch):
    return {"x": np.random.default_rng(batch).normal(size=(batch, 3, 16, 16)).astype(np.float32)}


def timed(built, batch=2, **changes):
    with built.backend.open(built.plan, built.settings) as runner:
        settings = SHORT.model_copy(update=changes)
        return measure(runner, feed(batch), "random", settings, "engine", NullProgress(), on_gpu=True)


def test_parts_add_up_and_are_shorter_than_the_whole_inference(built):
    found = timed(built)
    parts = found.parts
    assert found.iterations >= 10
    assert 0 < parts["gpu_compute"].median < found.median
    assert parts["h2d"].median > 0
    assert parts["d2h"].median > 0
    whole = parts["h2d"].mean + parts["gpu_compute"].mean + parts["d2h"].mean
    assert found.mean == pytest.approx(whole, rel=1e-6)
    assert parts["gpu_compute"].median < parts["end_to_end"].median
    assert found.throughput_qps == pytest.approx(found.iterations / found.wall_seconds)


def test_without_transfers_the_latency_is_the_kernels(built):
    found = timed(built, transfers=False)
    assert found.median == pytest.approx(found.parts["gpu_compute"].median)
    assert set(found.parts) == {"gpu_compute", "enqueue", "end_to_end"}


def test_the_engine_is_captured_as_a_graph_and_answers_the_same(built):
    assert timed(built, cuda_graph=True).cuda_graph
    assert not timed(built, cuda_graph=False).cuda_graph
    with built.backend.open(built.plan, built.settings) as runner:
        before = runner.infer(feed(3))["y"]
        with runner.gpu.timer(feed(3), cuda_graph=True, transfers=True) as timer:
            timer.start()
            timer.finish()
        np.testing.assert_allclose(runner.infer(feed(3))["y"], before, atol=0.05)


def test_every_profile_can_be_timed(built):
    with built.backend.open(built.plan, built.settings) as runner:
        assert runner.gpu.opt_shapes == ({"x": (2, 3, 16, 16)}, {"x": (8, 3, 16, 16)})
    for batch in (1, 4, 8, 16):
        assert timed(built, batch).shapes == {"x": (batch, 3, 16, 16)}


def test_an_engine_is_as_fast_as_itself(built):
    with (
        built.backend.open(built.plan, built.settings) as old,
        built.backend.open(built.plan, built.settings) as new,
    ):
        found = evaluate(alternate(old, new, feed(2), SHORT, NullProgress()), {}, "")
    assert 0.8 < found.low <= found.ratio <= found.high < 1.25


def test_the_clocks_are_read_where_the_package_is_there():
    pytest.importorskip("pynvml")
    state = read_state(cudart.load().bus_id())
    if state is None:
        pytest.skip("NVML does not know this GPU")
    assert state.name == gpus()[0].name
    assert state.sm_mhz > 0


def test_the_whole_command(built, flavor):
    profile = {"backend": flavor, "targets": [gpus()[0].target], "latency": {**SHORT.to_dict(), "batches": [1, 8]}}
    wanted = trtpipe.DeploymentProfile.model_validate(profile)
    out = built.plan.parent / "latency"
    assert trtpipe.inspect(built.plan).obstacles == ()
    result = trtpipe.measure(built.plan, out, profile=wanted, settings=built.settings)
    report = LatencyReport.read(out / "latency.json")
    assert report == result.latency
    assert [figure.shapes["x"][0] for figure in report.measurements] == [1, 8]
    assert all(figure.on_gpu and flavor in figure.runner for figure in report.measurements)
    compared = trtpipe.compare_latency(built.plan, built.plan, profile=wanted, settings=built.settings)
    assert compared.on_gpu
    assert all(0.7 < pair.ratio < 1.4 for pair in compared.pairs)
