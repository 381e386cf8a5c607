from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from trtpipe.calibration.statistics import Statistics, TensorStatistics
from trtpipe.config.formats import FP8, INT8
from trtpipe.progress import NullProgress
from trtpipe.quantization import range_search
from trtpipe.quantization.range_search import search_ranges

if TYPE_CHECKING:
    from collections.abc import Mapping


def spiky(seed: int) -> TensorStatistics:
    """A normal distribution with an outlier: every method sees another range in it."""
    tensor = TensorStatistics()
    tensor.update(np.append(np.random.default_rng(seed).standard_normal(50_000), 80).astype(np.float32))
    return tensor


STATISTICS = Statistics({name: spiky(seed) for seed, name in enumerate("abcde")})


class Wants:
    """A judge for whom every tensor has one best amax; feeds see the same noise up to a small seeded spread."""

    def __init__(self, best: Mapping[str, float], spread: float = 0.01) -> None:
        self.best = best
        self.spread = spread
        self.calls = 0

    def __call__(self, amax: Mapping[str, float]) -> np.ndarray:
        self.calls += 1
        noise = sum(np.log(amax[name] / best) ** 2 for name, best in self.best.items())
        return 10 * np.log10(noise + 0.01) + self.spread * np.random.default_rng(self.calls).standard_normal(16)


def test_one_method_for_all_wins_where_it_is_best() -> None:
    judge = Wants(dict.fromkeys("abcde", 80.0))
    found = search_ranges(STATISTICS, judge, INT8, NullProgress())
    assert found.method == "auto"
    assert {tensor.amax for tensor in found.tensors.values()} == {80.0}


def test_single_tensors_differ_where_that_helps() -> None:
    judge = Wants({**dict.fromkeys("abde", 80.0), "c": 3.5})
    found = search_ranges(STATISTICS, judge, INT8, NullProgress())
    assert found.tensors["c"].amax == pytest.approx(3.5, rel=0.2)
    assert min(found.tensors[name].amax for name in "abde") > 60


def test_what_may_be_chance_changes_nothing() -> None:
    judge = Wants({**dict.fromkeys("abde", 80.0), "c": 3.5}, spread=1e3)
    chosen = {tensor.method for tensor in search_ranges(STATISTICS, judge, INT8, NullProgress()).tensors.values()}
    assert len(chosen) == 1


def test_the_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_search, "TRIALS", 3)
    judge = Wants(dict.fromkeys("abcde", 3.5))
    search_ranges(STATISTICS, judge, INT8, NullProgress())
    assert judge.calls <= 7 + 3


def test_the_same_answer_every_time() -> None:
    texts = {
        search_ranges(STATISTICS, Wants(dict.fromkeys("abcde", 5.0)), FP8, NullProgress()).to_json() for _ in range(3)
    }
    assert len(texts) == 1
