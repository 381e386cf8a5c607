from __future__ import annotations

import numpy as np
import pytest

from trtpipe.latency import alternating
from trtpipe.latency.alternating import duel, judge
from trtpipe.progress import Silent


def rounds(ratio, spread=0.01, seed=0, count=30):
    """Both runners share the machine's moods; the second one takes ``ratio`` times as long."""
    generator = np.random.default_rng(seed)
    mood = 1 + generator.random((count, 1))
    return mood * np.array([1.0, ratio]) * (1 + spread * generator.normal(size=(count, 2)))


@pytest.mark.parametrize(("ratio", "slower"), [(1.0, False), (1.02, False), (1.1, True), (2.0, True), (0.8, False)])
def test_a_real_slowdown_shows_through_the_machines_moods(ratio, slower):
    found = judge(rounds(ratio))
    assert found.slower is slower
    assert found.low <= found.ratio <= found.high
    assert found.ratio == pytest.approx(ratio, rel=0.02)


def test_equal_runners_are_never_called_slower():
    assert not any(judge(rounds(1.0, spread=0.2, seed=seed)).slower for seed in range(100))


def test_both_run_in_turns_and_take_turns_at_beginning(monkeypatch):
    monkeypatch.setattr(alternating, "_ROUND_SECONDS", 0.0)
    calls = []

    class Named:
        def __init__(self, name):
            self.name = name

        def time(self, feed):
            calls.append(self.name)
            return 0.001

    duel(Named("old"), Named("new"), {}, Silent(), rounds=4)
    assert "".join(name[0] for name in calls) == "on" + "on" + "no" + "on" + "no"
