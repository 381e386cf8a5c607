from __future__ import annotations

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from latency import Contender, race  # noqa: E402 - of the benchmark, which needs torch


def test_all_take_turns_and_who_begins_changes():
    calls: list[str] = []

    def contender(name: str, seconds: float) -> Contender:
        def infer(feed: dict[str, np.ndarray]) -> None:
            calls.append(name)
            time.sleep(seconds)

        return Contender(name, "nowhere", infer)

    seconds = race([contender("a", 0.03), contender("b", 0.06)], {}, rounds=2)
    assert seconds.shape == (2, 2)
    assert (seconds >= [0.03, 0.06]).all()
    turns = [name for number, name in enumerate(calls) if number == 0 or calls[number - 1] != name]
    assert turns == ["a", "b", "a"], "round 1: a, b; round 2: b, a"
