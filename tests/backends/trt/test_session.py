"""An engine for applications, on a CUDA runtime that works in host memory: what is copied, when, and to where."""

from __future__ import annotations

import ctypes
import gc
import threading
from contextlib import ExitStack

import numpy as np
import pytest
from fake_cuda import TRT, FakeCudart, OnDevice, WorkingEngine

from trtpipe.backends import dlpack
from trtpipe.backends.trt.cudart import Cudart
from trtpipe.backends.trt.session import EngineSession
from trtpipe.errors import HostError, InputError, StageError

TENSORS = {"x": ("in", "float32", (-1, 4), "device"), "y": ("out", "float32", (-1, 4), "device"),
           "best": ("out", "int64", (-1,), "device")}  # fmt: skip
PROFILES = [{"x": ((1, 4), (2, 4), (3, 4))}, {"x": ((4, 4), (6, 4), (8, 4))}]


def double(feed):
    return {"y": feed["x"] * 2, "best": feed["x"].argmax(axis=1).astype(np.int64)}


@pytest.fixture
def cuda():
    return FakeCudart()


@pytest.fixture
def session(cuda):
    """Sessions whose memory is all given back in the end."""
    with ExitStack() as stack:

        def make(tensors=None, profiles=None, function=double, *, cuda_graph=True):
            engine = WorkingEngine(cuda, tensors or TENSORS, profiles or PROFILES, function)
            made = EngineSession(TRT, engine, Cudart(cuda), 0, "sm89.plan", stack, cuda_graph=cuda_graph)
            return made, engine.contexts[0]

        yield make
    gc.collect()
    assert cuda.alive == set()


def rows(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def test_gives_what_the_engine_computes(session):
    run = session()[0].run
    for count in (2, 3, 1, 3, 3, 3):
        x = rows(count, seed=count)
        found = run({"x": x})
        np.testing.assert_array_equal(found["y"], x * 2)
        np.testing.assert_array_equal(found["best"], x.argmax(axis=1))


def test_outputs_are_the_caller_s_own(session):
    run = session()[0].run
    first = run({"x": rows(2, seed=1)})["y"]
    before = first.copy()
    run({"x": rows(2, seed=2)})
    np.testing.assert_array_equal(first, before)


def test_a_call_copies_in_runs_and_copies_out_in_that_order(cuda, session):
    run = session()[0].run
    run({"x": rows(2)})
    del cuda.calls[:]
    run({"x": rows(3)})
    assert cuda.calls[-5:] == ["MemcpyAsync in", "execute", "MemcpyAsync out", "MemcpyAsync out", "StreamSynchronize"]


class TestGraphs:
    def test_from_the_second_call_of_equal_shapes_on_a_graph_is_launched(self, cuda, session):
        made, _ = session()
        for seed, launched in enumerate((False, True, True)):
            del cuda.calls[:]
            x = rows(2, seed)
            np.testing.assert_array_equal(made.run({"x": x})["y"], x * 2)
            assert ("GraphLaunch" in cuda.calls) == launched == made.cuda_graph
        assert "execute" not in cuda.calls, "not beside the graph"

    def test_other_shapes_never_meet_a_graph_of_earlier_ones(self, cuda, session):
        made, _ = session()
        for count in (2, 2, 3, 2, 3, 3, 3, 2):
            x = rows(count, count)
            np.testing.assert_array_equal(made.run({"x": x})["y"], x * 2)
        assert cuda.calls.count("StreamBeginCapture") == 2
        assert cuda.calls.count("GraphExecDestroy") == 2

    def test_can_be_left_out(self, cuda, session):
        made, _ = session(cuda_graph=False)
        for _ in range(3):
            made.run({"x": rows(2)})
        assert cuda.calls.count("execute") == 3
        assert not any("Capture" in call for call in cuda.calls)

    def test_an_engine_that_cannot_be_captured_runs_without(self, cuda, session):
        cuda.captures = False
        made, _ = session()
        for seed in range(4):
            x = rows(2, seed)
            np.testing.assert_array_equal(made.run({"x": x})["y"], x * 2)
        assert not made.cuda_graph
        assert cuda.calls.count("StreamBeginCapture") == 1, "and is not tried again"


class TestShapes:
    def test_the_first_profile_that_admits_them_is_taken(self, session):
        made, context = session()
        for count, profile in ((2, 0), (5, 1), (8, 1), (3, 0)):
            made.run({"x": rows(count)})
            assert context.profile == profile

    @pytest.mark.parametrize("shape", [(9, 4), (0, 4), (2, 5), (2,)])
    def test_what_no_profile_admits_is_refused_and_the_next_call_is_not_hurt(self, session, shape):
        made, _ = session()
        made.run({"x": rows(2)})
        with pytest.raises(InputError, match="no optimization profile admits x:"):
            made.run({"x": np.zeros(shape, np.float32)})
        np.testing.assert_array_equal(made.run({"x": rows(2)})["y"], rows(2) * 2)

    def test_memory_grows_and_is_kept(self, cuda, session):
        made, _ = session()
        made.run({"x": rows(3)})
        held = cuda.calls.count("Malloc")
        made.run({"x": rows(1)})
        made.run({"x": rows(3)})
        assert cuda.calls.count("Malloc") == held
        made.run({"x": rows(8)})
        assert cuda.calls.count("Malloc") == held + 3
        assert len([call for call in cuda.calls if call == "Free"]) == 3

    def test_values_that_decide_shapes_stay_on_the_host_and_count_as_shapes(self, cuda, session):
        tensors = {"x": TENSORS["x"], "n": ("in", "int64", (1,), "host"), "y": TENSORS["y"]}
        made, _ = session(tensors, function=lambda feed: {"y": feed["x"] * feed["n"].astype("f4")})
        for value in (3, 3, 4, 4):
            found = made.run({"x": rows(2), "n": np.array([value])})
            np.testing.assert_array_equal(found["y"], rows(2) * value)

    def test_values_that_decide_shapes_are_refused_on_the_gpu(self, cuda, session):
        tensors = {"x": TENSORS["x"], "n": ("in", "int64", (1,), "host"), "y": TENSORS["y"]}
        made, _ = session(tensors, function=lambda feed: {"y": feed["x"]})
        there = dlpack.imported(OnDevice(cuda, np.array([3])), made.stream, "n")
        with pytest.raises(InputError, match="'n' decides shapes"):
            made.run({"x": rows(2), "n": there})

    def test_outputs_whose_shape_depends_on_the_data(self, session):
        tensors = {"x": TENSORS["x"], "found": ("out", "float32", (-2, 4), "device")}
        made, _ = session(tensors, function=lambda feed: {"found": feed["x"][feed["x"][:, 0] > 0]})
        for seed in range(6):
            x = rows(3, seed)
            np.testing.assert_array_equal(made.run({"x": x})["found"], x[x[:, 0] > 0])
        kept = made.run({"x": x}, on_device=True)["found"]
        assert kept.shape == x[x[:, 0] > 0].shape


class TestDeviceMemory:
    def test_inputs_there_are_copied_within_the_gpu(self, cuda, session):
        made, _ = session()
        for seed in range(3):
            given = OnDevice(cuda, rows(2, seed))
            del cuda.calls[:]
            found = made.run({"x": dlpack.imported(given, made.stream, "x")})
            np.testing.assert_array_equal(found["y"], rows(2, seed) * 2)
            assert given.streams == [made.stream], "its owner waits for our stream, or makes it wait"
            assert "MemcpyAsync within" in cuda.calls
            assert "MemcpyAsync in" not in cuda.calls

    def test_outputs_can_stay_and_are_never_overwritten(self, cuda, session):
        made, _ = session()
        kept = [made.run({"x": rows(2, seed)}, on_device=True)["y"] for seed in range(4)]
        for seed, array in enumerate(kept):
            assert (array.shape, array.dtype, array.__dlpack_device__()) == ((2, 4), "float32", (2, 0))
            there = np.frombuffer(ctypes.string_at(array.address, 32), np.float32).reshape(2, 4)
            np.testing.assert_array_equal(there, rows(2, seed) * 2)

    def test_they_feed_the_next_model_and_outlive_whoever_made_them(self, cuda, session):
        made, _ = session()
        y = made.run({"x": rows(2)}, on_device=True)["y"]
        tensor = dlpack.imported(y, made.stream, "x")
        address = y.address
        del y
        gc.collect()
        assert address in cuda.alive
        np.testing.assert_array_equal(made.run({"x": tensor})["y"], rows(2) * 4)
        del tensor
        gc.collect()
        assert address not in cuda.alive

    def test_are_not_copied_elsewhere(self, session):
        y = session()[0].run({"x": rows(2)}, on_device=True)["y"]
        with pytest.raises(BufferError):
            y.__dlpack__(copy=True)
        with pytest.raises(BufferError):
            y.__dlpack__(dl_device=(1, 0))


def test_threads_take_turns(session):
    made, _ = session()
    wrong = []

    def work(seed):
        for _ in range(50):
            x = rows(seed % 3 + 1, seed)
            if not np.array_equal(made.run({"x": x})["y"], x * 2):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_refusal_of_tensorrt_is_an_error(session):
    made, context = session()
    context.refuse = True
    with pytest.raises(StageError, match=r"sm89\.plan"):
        made.run({"x": rows(2)})


def test_no_memory_is_an_error_with_cuda_s_word(cuda, session):
    made, _ = session()
    cuda.fail["cudaMalloc"] = 2
    with pytest.raises(StageError, match="out of memory"):
        made.run({"x": rows(2)})
    del cuda.fail["cudaMalloc"]
    np.testing.assert_array_equal(made.run({"x": rows(2)})["y"], rows(2) * 2)


def test_no_execution_context(cuda, monkeypatch):
    monkeypatch.setattr(WorkingEngine, "create_execution_context", lambda self: None)
    with ExitStack() as stack, pytest.raises(HostError, match="execution context"):
        EngineSession(TRT, WorkingEngine(cuda, TENSORS, PROFILES, double), Cudart(cuda), 0, "p", stack, cuda_graph=True)
    assert cuda.alive == set()
