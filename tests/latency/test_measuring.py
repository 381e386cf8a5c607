from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from trtpipe.backends.timing import DeviceState, QueryTimes
from trtpipe.config.profile import LatencySettings
from trtpipe.latency import measuring
from trtpipe.latency.measuring import advice, measure, run
from trtpipe.latency.reports import Latency, Times
from trtpipe.progress import NullProgress


class Clock:
    """Advances only while the runner runs."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Worker:
    """Runs that take the given seconds."""

    device, gpu = "a clock", None
    inputs = outputs = ()

    def __init__(self, clock: Clock, seconds) -> None:
        self._clock = clock
        self._seconds = iter(seconds)
        self.feeds = []

    def time(self, feed):
        self.feeds.append(feed)
        seconds = next(self._seconds)
        self._clock.now += seconds
        return seconds


@pytest.fixture
def timed(monkeypatch):
    """measure() with run times that are given, on a clock of its own."""

    def run(seconds, warmup=0.2, duration=1.0, progress=None):
        clock = Clock()
        monkeypatch.setattr(measuring, "time", clock)
        worker = Worker(clock, seconds)
        feed = {"x": np.zeros((2, 3), np.float32)}
        settings = LatencySettings(warmup=warmup, duration=duration)
        found = measure(worker, feed, "zeros", settings, "engine:sm89", progress or NullProgress(), on_gpu=True)
        return found, worker

    return run


def test_warm_up_runs_are_not_measured(timed):
    found, worker = timed(itertools.chain([0.125, 0.125], itertools.repeat(0.0625)))
    assert found.max == pytest.approx(62.5)
    assert found.iterations == 16  # a second of runs of 1/16 s
    assert len(worker.feeds) == 18
    assert (found.artifact, found.runner, found.on_gpu, found.warmup_seconds) == ("engine:sm89", "a clock", True, 0.2)
    assert found.shapes == {"x": (2, 3)}


def test_there_is_at_least_one_warm_up_run(timed):
    found, worker = timed(itertools.chain([9.0], itertools.repeat(0.1)), warmup=0.001)
    assert found.max == pytest.approx(100)
    assert len(worker.feeds) == found.iterations + 1


def test_slow_runs_are_repeated_ten_times(timed):
    found, _ = timed(itertools.repeat(3.0))
    assert found.iterations == 10
    assert found.mean == pytest.approx(3000)


def test_every_run_gets_the_same_feed(timed):
    _, worker = timed(itertools.repeat(0.1))
    assert len({id(feed) for feed in worker.feeds}) == 1


def test_progress_never_passes_the_end(timed):
    calls = []

    class Listener(NullProgress):
        def advance(self, phase, done, total):
            calls.append((phase, done, total))

    timed(itertools.repeat(0.3), duration=1.0, progress=Listener())
    assert calls
    assert {phase for phase, _, _ in calls} == {"measure"}
    assert all(done <= total == 10 for _, done, total in calls)


def test_slow_drift_makes_figures_unstable(timed):
    found, _ = timed(itertools.chain([0.125, 0.125], np.linspace(0.05, 0.08, 17)), duration=1.0)
    assert not found.stable
    assert found.spread > 30
    assert found.windows == tuple(sorted(found.windows))
    assert any("differ by" in note for note in found.notes)
    steady, _ = timed(itertools.repeat(0.0625))
    assert steady.stable
    assert (steady.spread, steady.notes) == (0, ())


class Queue:
    """A device that takes one second per query, and counts queries that are enqueued; launching takes 0.1 s."""

    cuda_graph, notes = False, ()

    def __init__(self, clock):
        self.clock = clock
        self.ends = []
        self.most = 0

    def start(self):
        self.clock.now += 0.1
        begin = max(self.clock.now, self.ends[-1] if self.ends else 0.0)
        self.ends.append(begin + 1.0)
        self.waiting = getattr(self, "waiting", 0) + 1
        self.most = max(self.most, self.waiting)

    def finish(self):
        self.waiting -= 1
        self.clock.now = max(self.clock.now, self.ends[-1 - self.waiting])
        return QueryTimes(enqueue=0.1, h2d=0.0, compute=1.0, d2h=0.0)


def test_the_device_never_waits_for_the_host(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(measuring, "time", clock)
    queue = Queue(clock)
    queries, wall = run(queue, 5.0, 10, NullProgress())
    assert len(queries) == 10
    assert (queue.most, queue.waiting) == (2, 0)
    assert wall == pytest.approx(0.1 + 10)  # one launch, then query after query


@pytest.mark.parametrize("least", [1, 2, 25])
def test_the_least_number_of_runs_is_kept(monkeypatch, least):
    clock = Clock()
    monkeypatch.setattr(measuring, "time", clock)
    queries, _ = run(Queue(clock), 1e-9, least, NullProgress())
    assert len(queries) == least


def times(median, cov=1.0):
    same = dict.fromkeys(("min", "max", "mean", "median", "p90", "p95", "p99"), median)
    return Times(**same, cov=cov)


STATE = DeviceState(name="NVIDIA L4", sm_mhz=2000, processes=1)
PARTS = {"gpu_compute": times(10.0), "enqueue": times(1.0), "h2d": times(2.0), "d2h": times(2.0)}


def figure(**changes):
    whole = Latency(
        **times(14.0).to_dict(),
        artifact="engine:sm89",
        runner="a GPU",
        on_gpu=True,
        shapes={"x": (1,)},
        warmup_seconds=0.2,
        iterations=100,
        throughput_qps=70.0,
        parts=PARTS,
        windows=(14.0, 14.2),
        spread=1.4,
        before=STATE,
        after=STATE,
    )
    return whole.model_copy(update=changes)


def part(**changes):
    return {"parts": PARTS | changes}


def state(**changes):
    return STATE.model_copy(update=changes)


def test_good_figures_have_no_notes():
    assert advice(figure()) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spread": 25.0, "windows": (10.0, 12.5)}, r"windows .* differ by 25 % \(first 10 ms, last 12.5 ms\)"),
        (part(gpu_compute=times(10.0, cov=3.0)), r"GPU compute time varies by 3.0 %; lock"),
        (part(enqueue=times(8.5)), r"launching kernels \(8.5 ms\) on the host; a CUDA graph may help"),
        (part(enqueue=times(8.5)) | {"cuda_graph": True}, r"launching kernels \(8.5 ms\) on the host$"),
        (part(h2d=times(10.0)), r"copies into the GPU \(10 ms\)"),
        (part(d2h=times(11.0)), r"copies out of the GPU \(11 ms\)"),
        ({"before": None, "after": None}, r"clocks were not read: pip install 'nvidia-ml-py>="),
        ({"after": state(throttled=("power cap",))}, r"throttled: power cap"),
        ({"before": state(throttled=("temperature",))}, r"throttled: temperature"),
        ({"after": state(sm_mhz=1500)}, r"clock fell from 2000 to 1500 MHz"),
        ({"after": state(processes=3)}, r"3 programs use the GPU"),
    ],
)
def test_each_problem_gives_one_note(changes, words):
    [note] = advice(figure(**changes))
    assert re.search(words, note), note


@pytest.mark.parametrize(
    "changes",
    [
        {"spread": 10.0},
        part(gpu_compute=times(10.0, cov=2.5)),
        part(enqueue=times(8.0)),
        part(h2d=times(9.9)),
        {"after": state(sm_mhz=1901)},
        {"parts": {name: PARTS[name] for name in ("gpu_compute", "enqueue")}},
    ],
)
def test_below_the_thresholds_there_is_no_note(changes):
    assert advice(figure(**changes)) == ()


def test_on_a_cpu_only_stability_is_checked():
    cpu = {"on_gpu": False, "parts": {}, "before": None, "after": None, "cov": 50.0}
    assert advice(figure(**cpu)) == ()
    assert len(advice(figure(**cpu, spread=11.0))) == 1
