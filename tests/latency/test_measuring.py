from __future__ import annotations

import itertools

import numpy as np
import pytest

from trtpipe.backends.timing import Lap
from trtpipe.config.profile import LatencySettings
from trtpipe.latency import measuring
from trtpipe.latency.measuring import measure, run
from trtpipe.progress import NullProgress


class Clock:
    """Stands still except while the runner works."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Worker:
    """Takes the given seconds, one run after the other."""

    device = "a clock"
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


def test_warm_up_runs_do_not_count(timed):
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


def test_slow_runs_are_repeated_ten_times_however_long_it_takes(timed):
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
    """A device that works one second a query, and notes how many are under way; launching takes the host 0.1 s."""

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
        return Lap(enqueue=0.1, h2d=0.0, compute=1.0, d2h=0.0)


def test_the_device_never_waits_for_the_host(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(measuring, "time", clock)
    queue = Queue(clock)
    laps, wall = run(queue, 5.0, 10, NullProgress())
    assert len(laps) == 10
    assert (queue.most, queue.waiting) == (2, 0)
    assert wall == pytest.approx(0.1 + 10)  # one launch, then query after query


@pytest.mark.parametrize("least", [1, 2, 25])
def test_the_least_number_of_runs_is_kept(monkeypatch, least):
    clock = Clock()
    monkeypatch.setattr(measuring, "time", clock)
    laps, _ = run(Queue(clock), 1e-9, least, NullProgress())
    assert len(laps) == least
