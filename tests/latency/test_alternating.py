from __future__ import annotations

import numpy as np
import pytest

from trtpipe.config.profile import LatencySettings
from trtpipe.latency import alternating
from trtpipe.latency.alternating import alternate, evaluate, is_slower
from trtpipe.progress import NullProgress

SHAPES = {"x": (1, 3)}


def rounds(ratio, spread=0.01, seed=0, count=30):
    """Load slows both runners equally; the second one takes ``ratio`` times as long."""
    generator = np.random.default_rng(seed)
    load = 1 + generator.random((count, 1))
    return load * np.array([1.0, ratio]) * (1 + spread * generator.normal(size=(count, 2)))


@pytest.mark.parametrize(
    ("ratio", "slower", "faster"),
    [(1.0, False, ""), (1.02, False, "old"), (1.1, True, "old"), (2.0, True, "old"), (0.8, False, "new")],
)
def test_a_difference_is_found_in_spite_of_other_load(ratio, slower, faster):
    seconds = rounds(ratio)
    found = evaluate(seconds, SHAPES, "data")
    assert is_slower(seconds) is slower
    assert found.faster == faster
    assert found.low <= found.ratio <= found.high
    assert found.ratio == pytest.approx(ratio, rel=0.02)
    assert (found.rounds, found.shapes, found.data, found.confidence) == (30, SHAPES, "data", 0.95)


def test_times_are_milliseconds_of_each():
    found = evaluate(np.array([[0.001, 0.002], [0.003, 0.006], [0.002, 0.004]]), SHAPES, "")
    assert (found.old, found.new, found.ratio, found.low, found.high) == pytest.approx((2, 4, 2, 2, 2))


def test_equal_runners_are_never_slower():
    assert not any(is_slower(rounds(1.0, spread=0.2, seed=seed)) for seed in range(100))


def test_equal_runners_seldom_differ():
    """A 95 % interval misses the true value in about one of twenty cases."""
    wrong = sum(evaluate(rounds(1.0, spread=0.2, seed=seed), SHAPES, "").faster != "" for seed in range(100))
    assert wrong <= 12


class Named:
    device, inputs, outputs, gpu = "", (), (), None

    def __init__(self, name, calls):
        self.name = name
        self.calls = calls

    def time(self, feed):
        self.calls.append(self.name)
        return 0.001


def test_both_run_in_alternating_order(monkeypatch):
    monkeypatch.setattr(alternating, "_ROUND_SECONDS", 0.0)
    calls = []
    old, new = Named("old", calls), Named("new", calls)
    found = alternate(old, new, {}, LatencySettings(warmup=1e-9), NullProgress(), rounds=4)
    assert "".join(name[0] for name in calls) == "on" + "on" + "no" + "on" + "no"
    assert found.shape == (4, 2)
    assert (found > 0).all()
