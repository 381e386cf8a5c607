"""The protocol of timing an engine, on a recording fake of CUDA: what is enqueued, in which order, and what is read."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from fake_cuda import TRT, FakeCudart, TimedEngine

from trtpipe.backends.trt import runner
from trtpipe.backends.trt.cudart import Cudart
from trtpipe.backends.trt.runner import EngineRunner
from trtpipe.backends.trt.timer import opened
from trtpipe.config.profile import LatencySettings
from trtpipe.errors import InputError, StageError
from trtpipe.latency.measuring import measure
from trtpipe.progress import NullProgress

FEED = {"x": np.arange(8, dtype=np.float32).reshape(2, 4), "n": np.array([3], np.int64)}
CAPTURE = ["StreamBeginCapture", "execute", "StreamEndCapture", "GraphInstantiateWithFlags", "GraphDestroy"]


@pytest.fixture
def cuda():
    return FakeCudart()


@pytest.fixture
def watch(cuda):
    """A timer, with what was enqueued before it was ready."""

    def make(**options):
        engine = TimedEngine(cuda)
        manager = opened(TRT, engine, Cudart(cuda), FEED, 1, **({"cuda_graph": False, "transfers": True} | options))
        return manager, engine.context

    return make


def test_a_query_is_copies_and_kernels_between_events(cuda, watch):
    manager, _ = watch()
    with manager as timer:
        del cuda.calls[:]
        timer.start()
        assert cuda.calls == [
            *("EventRecord", "MemcpyAsync in", "EventRecord", "execute", "EventRecord", "MemcpyAsync out"),
            "EventRecord",
        ]
        lap = timer.finish()
    assert (lap.h2d, lap.compute, lap.d2h) == pytest.approx((0.002, 0.010, 0.002))
    assert lap.latency == pytest.approx(0.014)
    assert lap.enqueue > 0


def test_without_transfers_only_kernels_are_part_of_a_query(cuda, watch):
    manager, _ = watch(transfers=False)
    with manager as timer:
        del cuda.calls[:]
        timer.start()
        assert "Memcpy" not in "".join(cuda.calls)
        lap = timer.finish()
    assert (lap.h2d, lap.latency, lap.d2h) == pytest.approx((0, 0.010, 0))


def test_two_queries_may_be_under_way_and_end_in_their_order(cuda, watch):
    manager, context = watch()
    with manager as timer:
        timer.start()
        context.seconds = 0.020
        timer.start()
        first, second = timer.finish(), timer.finish()
        timer.start()
        third = timer.finish()
    assert [lap.compute for lap in (first, second, third)] == pytest.approx([0.010, 0.020, 0.020])


def test_inputs_reach_the_gpu_and_shape_inputs_stay_on_the_host(cuda, watch):
    manager, context = watch()
    with manager:
        assert context.profile == 1
        assert context.shapes == {"x": (2, 4), "n": (1,)}
        assert set(context.addresses) == {"x", "n", "y"}
        assert context.addresses["n"] in cuda.pinned
        assert np.frombuffer(cuda._memory[context.addresses["n"]], np.int64).tolist() == [3]
        assert context.addresses["x"] not in cuda.pinned
        pinned = [bytes(memory) for memory in cuda._memory.values()]
        assert FEED["x"].tobytes() in pinned


def test_a_graph_is_captured_after_a_first_run_and_launched_from_then_on(cuda, watch):
    manager, _ = watch(cuda_graph=True)
    with manager as timer:
        assert timer.cuda_graph
        assert timer.notes == ()
        begin = cuda.calls.index("StreamBeginCapture")
        assert cuda.calls[begin - 2 : begin + 5] == ["execute", "StreamSynchronize", *CAPTURE]
        del cuda.calls[:]
        timer.start()
        assert "GraphLaunch" in cuda.calls
        assert "execute" not in cuda.calls
        assert timer.finish().compute == pytest.approx(0.010)


def test_tensorrt_rtx_waits_for_the_kernels_of_this_shape_before_they_are_captured(cuda):
    """By default it runs general kernels first, and a graph would keep them."""
    rtx = SimpleNamespace(
        **vars(TRT), DynamicShapesKernelSpecializationStrategy=SimpleNamespace(LAZY="lazy", EAGER="eager")
    )
    engine = TimedEngine(cuda)
    with opened(rtx, engine, Cudart(cuda), FEED, 1, cuda_graph=True, transfers=True):
        assert engine.config.dynamic_shapes_kernel_specialization_strategy == "eager"
    with opened(TRT, engine, Cudart(cuda), FEED, 1, cuda_graph=True, transfers=True):
        assert engine.config is None, "TensorRT chose its kernels when it built"


def test_a_graph_that_cuda_cannot_make_ready_is_no_error_either(cuda, watch):
    cuda.fail["cudaGraphInstantiateWithFlags"] = 801  # cudaErrorNotSupported
    manager, _ = watch(cuda_graph=True)
    with manager as timer:
        assert not timer.cuda_graph
        assert "cannot be captured" in timer.notes[0]
        assert "GetLastError" in cuda.calls
        timer.start()
        assert timer.finish().compute == pytest.approx(0.010)
    assert not cuda.alive


@pytest.mark.parametrize("how", ["cuda refuses", "TensorRT refuses"])
def test_an_engine_that_cannot_be_captured_is_launched_as_it_is_and_says_so(cuda, watch, how):
    cuda.captures = how != "cuda refuses"
    manager, context = watch(cuda_graph=True)
    original = context.execute_async_v3
    context.execute_async_v3 = lambda stream: original(stream) and not (cuda.capturing and how == "TensorRT refuses")
    with manager as timer:
        assert not timer.cuda_graph
        assert "cannot be captured" in timer.notes[0]
        if how == "cuda refuses":
            assert "GetLastError" in cuda.calls  # a failed capture must not fail the next call
        del cuda.calls[:]
        timer.start()
        assert "execute" in cuda.calls
        assert timer.finish().compute == pytest.approx(0.010)


@pytest.mark.parametrize("graph", [True, False])
def test_everything_is_given_back_after_the_last_query_is_done(cuda, watch, graph):
    manager, _ = watch(cuda_graph=graph)
    with manager as timer:
        timer.start()
        del cuda.calls[:]
    assert cuda.calls[0] == "StreamSynchronize"
    assert cuda.calls[-1] == "StreamDestroy"
    assert not cuda.alive or cuda.alive <= set(cuda.graphs)  # the captured graph itself was destroyed on the way
    assert len(cuda.alive) == 0


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaMallocHost", "cudaEventCreateWithFlags", "cudaMemcpyAsync"])
def test_an_error_of_cuda_is_told_in_its_words_and_nothing_stays_behind(cuda, watch, call):
    cuda.fail[call] = 2
    manager, _ = watch()
    with pytest.raises(StageError, match=rf"{call} fails: out of memory \(cudaError 2\)"), manager:
        pass
    assert not cuda.alive


def test_an_engine_that_does_not_start_is_told(cuda, watch):
    manager, context = watch()
    context.refuse = True
    with pytest.raises(StageError, match="cannot enqueue"), manager:
        pass
    assert not cuda.alive


def test_shapes_that_tensorrt_refuses_are_told(cuda, watch):
    manager, context = watch()
    context.set_input_shape = lambda name, shape: False
    with pytest.raises(StageError, match="shape or the memory of 'x'"), manager:
        pass


class TestRunner:
    @pytest.fixture
    def runner(self, cuda, monkeypatch):
        monkeypatch.setattr(runner, "load", lambda: Cudart(cuda))
        polygraphys = type("Fake", (), {"infer": lambda self, feed: {"y": feed["x"][:, 0]}, "set_profile": print})()
        return EngineRunner(TRT, TimedEngine(cuda), polygraphys, "e.plan", "tensorrt")

    def test_it_can_be_timed(self, runner):
        assert runner.gpu is runner
        assert runner.opt_shapes == ({"x": (2, 4), "n": (1,)}, {"x": (6, 4), "n": (1,)})

    def test_a_feed_of_another_type_is_refused_before_its_bytes_are_copied(self, runner, cuda):
        with pytest.raises(InputError, match="'x' is float32, the feed has float64"):
            runner.timer({**FEED, "x": FEED["x"].astype(np.float64)}, cuda_graph=False, transfers=True)
        assert cuda.calls == []

    def test_the_profile_that_fits_is_used(self, runner):
        with runner.timer({**FEED, "x": np.ones((7, 4), np.float32)}, cuda_graph=False, transfers=True):
            assert runner._engine.context.profile == 1

    def test_figures_are_the_devices(self, runner):
        settings = LatencySettings(warmup=1e-6, duration=1e-6, iterations=20)
        found = measure(runner, FEED, "some", settings, "engine:sm89", NullProgress(), on_gpu=True)
        assert found.iterations == 20
        assert found.cuda_graph
        assert (found.median, found.p99) == pytest.approx((14, 14), rel=1e-4)
        assert found.parts["gpu_compute"].median == pytest.approx(10, rel=1e-4)
        assert found.parts["h2d"].median == found.parts["d2h"].median == pytest.approx(2, rel=1e-3)
        assert found.parts["end_to_end"].median > 0
        assert any("clocks were not read" in note for note in found.notes)
        alone = measure(
            runner, FEED, "", settings.model_copy(update={"transfers": False}), "e", NullProgress(), on_gpu=True
        )
        assert alone.median == pytest.approx(10, rel=1e-4)
        assert set(alone.parts) == {"gpu_compute", "enqueue", "end_to_end"}
