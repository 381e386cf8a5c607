"""Work in threads: order, reports, failures, and an end to what nobody waits for."""

from __future__ import annotations

import threading

import pytest
from fault_injection import fault

from trtpipe.backends.null import NullRequest
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import BuildError, Cancelled
from trtpipe.isolation.thread_pool import Task, run_tasks
from trtpipe.isolation.worker import Limits, affordable, call
from trtpipe.progress import NullProgress


class Heard(NullProgress):
    def __init__(self):
        self.said = []
        self.threads = set()

    def advance(self, phase, done, total):
        self.threads.add(threading.get_ident())
        self.said.append(phase)

    def note(self, message):
        self.said.append(message)


def waiting(barrier, name):
    """Work that only ends when as many run at once as the barrier wants."""

    def work(progress):
        progress.advance("building", 0, 1)
        barrier.wait(20)
        return name

    return Task(name, work)


def test_work_is_done_at_once_and_reports_in_the_callers_thread():
    heard = Heard()
    barrier = threading.Barrier(3)
    outcomes = list(run_tasks([waiting(barrier, name) for name in "abc"], 3, heard))
    assert {outcome.index: outcome.result for outcome in outcomes} == {0: "a", 1: "b", 2: "c"}
    assert sorted(heard.said) == ["a: building", "b: building", "c: building"]
    assert heard.threads == {threading.get_ident()}


def test_never_more_than_asked_for():
    running, most, lock = 0, 0, threading.Lock()

    def work(progress):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.01)
        with lock:
            running -= 1

    list(run_tasks([Task(str(number), work) for number in range(8)], 2, NullProgress()))
    assert most == 2


def test_one_at_a_time_stays_in_the_callers_thread_and_in_order():
    tasks = [Task(name, lambda progress, name=name: (name, threading.get_ident())) for name in "ab"]
    here = threading.get_ident()
    assert [outcome.result for outcome in run_tasks(tasks, 1, NullProgress())] == [("a", here), ("b", here)]


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_failure_is_an_outcome_and_the_others_go_on(at_once):
    def fail(progress):
        raise BuildError("cannot fuse", "use another target")

    outcomes = {
        o.index: o for o in run_tasks([Task("a", fail), Task("b", lambda progress: 7)], at_once, NullProgress())
    }
    assert isinstance(outcomes[0].error, BuildError)
    assert outcomes[1].result == 7


def test_who_stops_listening_ends_the_children(conv_model):
    """A child that hangs would hold its thread for a minute."""
    cancelled = []

    def hang(progress):
        request = NullRequest(model=str(conv_model), plan=str(conv_model) + ".plan", target="sm89")
        try:
            call(
                fault("hang"), request, EngineRecord, limits=Limits(60.0, 4 << 30),
                progress=progress, what="building", workdir=conv_model.parent, reads=(conv_model.parent,),
            )  # fmt: skip
        except Cancelled as error:
            cancelled.append(error.message)

    outcomes = run_tasks([Task("a", hang), Task("b", hang), Task("c", lambda progress: 1)], 3, NullProgress())
    assert next(outcomes).index == 2
    outcomes.close()
    assert len(cancelled) == 2
    assert cancelled[0].startswith("cancelled while building")


@pytest.fixture
def conv_model(tmp_path):
    from models import conv_net, save

    save(conv_net(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


class TestAffordable:
    def test_the_user_is_taken_at_his_word(self):
        assert affordable(8, 1 << 50, 3) == 3
        assert affordable(2, 0, 3) == 2

    def test_a_model_larger_than_memory_is_built_alone(self):
        assert affordable(8, 1 << 50, None) == 1

    def test_cores_bound_small_models(self, monkeypatch):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)), raising=False)
        monkeypatch.setattr("trtpipe.isolation.worker.free_memory", lambda: 64 << 30)
        assert affordable(8, 1 << 20, None) == 4
        assert affordable(3, 1 << 20, None) == 3

    def test_memory_bounds_large_ones(self, monkeypatch):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)), raising=False)
        monkeypatch.setattr("trtpipe.isolation.worker.free_memory", lambda: 20 << 30)
        assert affordable(8, 2 << 30, None) == 2
