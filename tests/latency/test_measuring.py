from __future__ import annotations

import itertools

import numpy as np
import pytest

from trtpipe.latency import measuring
from trtpipe.latency.measuring import measure, summarise
from trtpipe.profile import LatencySettings
from trtpipe.progress import Silent


def figures(milliseconds):
    return summarise(np.asarray(milliseconds) / 1e3, {"x": (1, 3)}, 0.2, "lowered", "a CPU", on_gpu=False)


def test_figures_are_numpys_in_milliseconds():
    times = np.random.default_rng(0).gamma(2.0, 3.0, 1000)
    found = figures(times)
    assert (found.iterations, found.artifact, found.runner, found.on_gpu) == (1000, "lowered", "a CPU", False)
    assert found.min == pytest.approx(times.min())
    assert found.max == pytest.approx(times.max())
    assert found.mean == pytest.approx(times.mean())
    assert found.median == pytest.approx(np.median(times))
    assert [found.p90, found.p95, found.p99] == pytest.approx(np.percentile(times, [90, 95, 99]).tolist())
    assert found.cov == pytest.approx(100 * times.std() / times.mean())
    assert found.throughput_qps == pytest.approx(1000 / (times.sum() / 1e3))
    assert found.shapes == {"x": (1, 3)}


def test_equal_times_have_no_variation():
    found = figures([5.0] * 4)
    assert (found.min, found.median, found.p99, found.max) == pytest.approx((5, 5, 5, 5))
    assert found.cov == pytest.approx(0)
    assert found.throughput_qps == pytest.approx(200)


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
        found = measure(worker, feed, settings, "engine:sm89", progress or Silent(), on_gpu=True)
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

    class Listener(Silent):
        def advance(self, phase, done, total):
            calls.append((phase, done, total))

    timed(itertools.repeat(0.3), duration=1.0, progress=Listener())
    assert calls
    assert {phase for phase, _, _ in calls} == {"measure"}
    assert all(done <= total == 10 for _, done, total in calls)
