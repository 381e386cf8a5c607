from __future__ import annotations

from functools import reduce

import numpy as np
import pytest

from trtpipe.calibration.statistics import Statistics
from trtpipe.calibration.statistics_arrays import add_columns, from_columns, to_columns

NAMES = ("b", "a", "never")


def seen(seed: int) -> Statistics:
    """Statistics of two tensors that hold zeros, tiny and huge values, and of one that held nothing."""
    random = np.random.default_rng(seed)
    statistics = Statistics.empty(NAMES)
    relu = np.maximum(random.standard_cauchy(5000), 0)
    statistics.update({"a": relu, "b": random.standard_normal(300) * 10.0 ** -(12 * seed), "never": np.empty(0)})
    return statistics


def test_there_and_back() -> None:
    for seed in range(4):
        statistics = seen(seed)
        assert from_columns(sorted(NAMES), to_columns(statistics)).tensors == statistics.tensors


def test_adding_them_up_is_merging() -> None:
    parts = [seen(seed) for seed in range(4)]
    total = Statistics.empty(NAMES)
    for part in parts:
        add_columns(total, to_columns(part))
    assert total.tensors == reduce(Statistics.merge, parts).tensors


def test_only_filled_bins_are_kept() -> None:
    statistics = Statistics.empty(["a"])
    statistics.update({"a": np.array([0, 0, -2.0, 2.01, np.finfo(np.float32).max], np.float32)})
    columns = to_columns(statistics)
    top = int(np.float32(np.finfo(np.float32).max).view(np.uint32)) >> 16
    assert (columns["bins"].tolist(), columns["counts"].tolist()) == ([0, 0x4000, top], [2, 2, 1])


@pytest.mark.parametrize("name", ["count", "ends", "bins", "counts", "minimum"])
def test_columns_that_are_too_short_are_refused(name: str) -> None:
    columns = to_columns(seen(0))
    columns[name] = columns[name][:-1]
    with pytest.raises((IndexError, ValueError)):
        from_columns(sorted(NAMES), columns)
