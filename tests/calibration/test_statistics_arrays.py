from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from models import normal

from trtpipe.calibration.statistics import Statistics
from trtpipe.calibration.statistics_arrays import StatisticsReducer, add_arrays, from_arrays, to_arrays
from trtpipe.errors import InputError

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
        assert from_arrays(sorted(NAMES), to_arrays(statistics)).tensors == statistics.tensors


def test_adding_them_up_is_merging() -> None:
    parts = [seen(seed) for seed in range(4)]
    total = Statistics.empty(NAMES)
    for part in parts:
        add_arrays(total, to_arrays(part))
    assert total.tensors == reduce(Statistics.merge, parts).tensors


def test_only_filled_bins_are_kept() -> None:
    statistics = Statistics.empty(["a"])
    statistics.update({"a": np.array([0, 0, -2.0, 2.01, np.finfo(np.float32).max], np.float32)})
    arrays = to_arrays(statistics)
    top = int(np.float32(np.finfo(np.float32).max).view(np.uint32)) >> 16
    assert (arrays["bins"].tolist(), arrays["counts"].tolist()) == ([0, 0x4000, top], [2, 2, 1])


@pytest.mark.parametrize("name", ["count", "ends", "bins", "counts", "minimum"])
def test_arrays_that_are_too_short_are_refused(name: str) -> None:
    arrays = to_arrays(seen(0))
    arrays[name] = arrays[name][:-1]
    with pytest.raises((IndexError, ValueError)):
        from_arrays(sorted(NAMES), arrays)


class TestReducer:
    def test_inputs_and_outputs_are_counted_and_others_are_handed_back(self) -> None:
        reducer, expected = StatisticsReducer(["y", "x"]), Statistics.empty(["x", "y"])
        for seed in range(3):
            feed, outputs = {"x": normal(4, 3, seed=seed)}, {"y": normal(2, seed=seed), "probe": normal(1, seed=seed)}
            expected.update({**feed, **outputs})
            left = reducer.take(feed, outputs)
            assert list(left) == ["probe"]
            assert left["probe"] is outputs["probe"]
        assert from_arrays(("x", "y"), reducer.result()).tensors == expected.tensors

    def test_a_result_starts_over(self) -> None:
        reducer = StatisticsReducer(["y"])
        for scale in (3.0, 1.0):
            reducer.take({}, {"y": normal(50) * np.float32(scale)})
            found = from_arrays(["y"], reducer.result()).tensors["y"]
            assert (found.count, found.largest) == (50, np.abs(normal(50) * np.float32(scale)).max())

    def test_a_nan_in_the_last_tensor_leaves_no_trace_in_the_first_ones(self) -> None:
        reducer, expected = StatisticsReducer(["a", "b", "c"]), StatisticsReducer(["a", "b", "c"])
        fine = {"a": normal(1, 16, 160, 160), "b": normal(7), "c": normal(5)}
        bad = {"a": normal(1, 16, 160, 160, seed=1, scale=50), "b": np.zeros(7, np.float32), "c": np.array([1, np.nan])}
        reducer.take({}, fine)
        expected.take({}, fine)
        with pytest.raises(InputError, match=r"(?m)^tensor 'c' became NaN or infinite \(1 values\)$"):
            reducer.take({}, bad)
        found = reducer.result()
        for name, values in expected.result().items():
            np.testing.assert_array_equal(found[name], values)
