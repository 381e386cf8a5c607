from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trtpipe.calibration.data_summary import DataSummary
from trtpipe.calibration.statistics import BINS, Statistics, TensorStatistics, counted_rows
from trtpipe.errors import InputError, InternalError

if TYPE_CHECKING:
    from collections.abc import Iterable

FLOATS = arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32, allow_nan=True, allow_infinity=True))

#: The width of a bin relative to its lower edge, at most, as docs/calibration.md states it.
RESOLUTION = 2.0**-7


def seen(*parts: np.ndarray) -> TensorStatistics:
    statistics = TensorStatistics()
    for part in parts:
        statistics.update(part)
    return statistics


def summary(digest: str, samples: int = 1) -> DataSummary:
    return DataSummary(source="s", samples=samples, feeds=1, digest=digest, inputs={})


def bin_of(value: float) -> int:
    """The bin as the format's definition has it: exponent and 7 leading bits of the mantissa."""
    if value == 0:
        return 0
    mantissa, exponent = np.frexp(np.float64(abs(value)))
    if exponent - 1 < -126:
        return int(abs(value) / 2.0**-133)
    return int((exponent - 1 + 127) * 128 + int((mantissa * 2 - 1) * 128))


class TestNumbers:
    @pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e6, 1e30])
    def test_against_brute_force(self, scale: float) -> None:
        x = (np.random.default_rng(0).standard_normal(5000) * scale).astype(np.float32)
        x[::7] = 0
        statistics = seen(x.reshape(50, 100))
        assert (statistics.count, statistics.zeros, statistics.nonfinite) == (5000, np.sum(x == 0), 0)
        assert (statistics.minimum, statistics.maximum) == (x.min(), x.max())
        assert statistics.largest == np.abs(x).max()
        expected = np.zeros(BINS, int)
        for value in x:
            expected[bin_of(float(value))] += 1
        np.testing.assert_array_equal(statistics.histogram, expected)

    @pytest.mark.parametrize(
        "value", [1.0, -1.0, 1.5, 3.4028235e38, 1.1754944e-38, 1e-45, 6e-41, 2.0**-133, 0.99999994]
    )
    def test_edges_of_the_grid(self, value: float) -> None:
        statistics = seen(np.array([value], np.float32))
        assert np.flatnonzero(statistics.histogram).tolist() == [bin_of(float(np.float32(value)))]

    def test_bins_are_as_narrow_as_promised(self) -> None:
        edges = (np.arange(128, BINS, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)
        assert edges[0] == 2.0**-126
        assert np.all(np.diff(edges) <= RESOLUTION * edges[:-1])

    def test_nonfinite_values_are_counted_and_enter_nothing_else(self) -> None:
        x = np.array([1, np.nan, -2, np.inf, -np.inf, 0], np.float32)
        statistics = seen(x)
        assert statistics.nonfinite == 3
        statistics.nonfinite = 0
        assert statistics == seen(np.array([1, -2, 0], np.float32))
        assert seen(np.array([np.nan], np.float32)).count == 0

    @pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16", ">f4"])
    def test_other_float_types(self, dtype: str) -> None:
        assert ml_dtypes.bfloat16
        x = np.array([0.5, -3.0, 0.0], dtype)
        assert seen(x) == seen(x.astype(np.float32))

    def test_any_shape_and_order_of_axes(self) -> None:
        x = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
        assert seen(x) == seen(x.transpose(2, 0, 1)) == seen(np.asfortranarray(x))
        assert seen(x[::2, 1:]) == seen(x[::2, 1:].copy())
        assert seen(np.float32(3) * np.ones((), np.float32)).count == 1
        assert seen(np.zeros((0, 3), np.float32)) == TensorStatistics()

    def test_bounds_of_magnitudes(self) -> None:
        assert (seen(np.float32([2, 5])).smallest, seen(np.float32([-2, -5])).smallest) == (2, 2)
        assert seen(np.float32([-2, 5])).smallest == 0
        assert (seen(np.float32([-7, 5])).largest, TensorStatistics().largest) == (7, 0)

    def test_large_arrays_need_little_memory(self) -> None:
        x = np.ones(8_000_000, np.float32)
        statistics = TensorStatistics()
        tracemalloc.start()
        try:
            statistics.update(x)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert statistics.count == 8_000_000
        assert peak < 2_000_000


class TestAnyWayOfCutting:
    @settings(max_examples=60, deadline=None)
    @given(FLOATS, FLOATS, FLOATS)
    def test_merging_is_exact_associative_and_commutative(self, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        whole = seen(np.concatenate([a, b, c]))
        sa, sb, sc = seen(a), seen(b), seen(c)
        for merged in (sa.merge(sb).merge(sc), sa.merge(sb.merge(sc)), sc.merge(sa).merge(sb), seen(c, a, b)):
            assert merged == whole
            for one, other in ((merged.minimum, whole.minimum), (merged.maximum, whole.maximum)):
                assert np.float32(one).tobytes() == np.float32(other).tobytes()  # tells 0.0 from -0.0

    def test_signed_zeros_in_any_order_are_zero(self) -> None:
        for values in ([0.0, -0.0], [-0.0, 0.0], [-0.0]):
            statistics = seen(np.array(values, np.float32))
            assert not np.signbit([statistics.minimum, statistics.maximum]).any()

    @pytest.mark.parametrize("batch", [1, 2, 3, 6, 96])
    def test_batch_size_and_order_change_no_bit(self, batch: int) -> None:
        rng = np.random.default_rng(3)
        x = rng.standard_cauchy((96, 1500)).astype(np.float32)
        shuffled = x[rng.permutation(96)]
        assert seen(*np.split(shuffled, 96 // batch)) == seen(x)


def start_of(sample: np.ndarray) -> int:
    """The first row that is counted in the first channel."""
    return sum(int(np.float32(extreme).view(np.uint32)) >> 16 for extreme in (sample.min(), sample.max()))


class TestFeatureMaps:
    """Of large maps some rows are counted; the extremes are those of all."""

    @pytest.mark.parametrize(
        ("shape", "step"),
        [((1, 64, 28, 28), 1), ((1, 128, 28, 28), 2), ((9, 8, 224, 224), 8), ((1, 64, 224, 224), 16),
         ((4, 5000, 5000), 1), ((5000, 768), 1), ((1, 800, 1, 3000), 1), ((1, 800, 2, 3000), 2),
         ((1, 8, 16, 56, 56), 8)],
    )  # fmt: skip
    def test_which_rows(self, shape: tuple[int, ...], step: int) -> None:
        assert counted_rows(shape) == step
        assert counted_rows((7, *shape[1:])) == step

    def test_the_histogram_is_of_these_rows_and_the_extremes_are_of_all(self) -> None:
        x = np.random.default_rng(0).standard_normal((3, 16, 160, 160)).astype(np.float32)
        x[1, 2, 5, 5], x[0, 1, 7, 3] = 90, -80
        rows = seen(
            *(
                sample[channel, row]
                for sample in x
                for channel in range(16)
                for row in range(160)
                if row % 8 == (start_of(sample) + channel) % 8
            )
        )
        statistics = seen(x)
        np.testing.assert_array_equal(statistics.histogram, rows.histogram)
        assert (statistics.count, statistics.minimum, statistics.maximum) == (rows.count, -80, 90)
        assert statistics.count == statistics.histogram.sum() < x.size / 5

    def test_borders_count_as_much_as_anything_else(self) -> None:
        x = np.random.default_rng(2).standard_normal((2, 8, 40, 400)).astype(np.float32)
        x[:, :, 0] = 10
        statistics = seen(x)
        assert statistics.count == x.size // 2
        assert statistics.histogram[bin_of(10)] == statistics.count // 40

    def test_samples_begin_with_different_rows(self) -> None:
        x = np.random.default_rng(3).standard_normal((64, 1, 400, 320)).astype(np.float32)
        assert counted_rows(x.shape) == 2
        x[:, :, 0] = 10 * np.arange(1, 65)[:, np.newaxis, np.newaxis]
        counted = sum(seen(sample[np.newaxis]).histogram[bin_of(sample[0, 0, 0])] > 0 for sample in x)
        assert 16 < counted < 48

    def test_batch_size_and_order_change_no_bit(self) -> None:
        x = np.random.default_rng(1).standard_normal((4, 16, 160, 160)).astype(np.float32)
        x[2] = np.maximum(x[2], 0)
        x[3, 0, 0, :2] = [-0.0, 0.0]
        assert seen(x) == seen(*np.split(x[::-1], 2)) == seen(*np.split(x, 4))

    def test_no_samples_at_all(self) -> None:
        assert seen(np.zeros((0, 16, 160, 160), np.float32)) == TensorStatistics()


class TestStatistics:
    def collected(self, parts: Iterable[np.ndarray], *summaries: DataSummary) -> Statistics:
        statistics = Statistics.empty(["b", "a"])
        for part in parts:
            statistics.update({"a": part, "b": -part, "not observed": part})
        statistics.data_summaries = summaries
        return statistics

    def test_merge(self) -> None:
        x = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
        one = self.collected([x[:10]], summary("2", 10))
        two = self.collected([x[10:]], summary("1", 20))
        whole = self.collected([x])
        assert list(whole.tensors) == ["a", "b"]
        assert one.merge(two) == two.merge(one)
        assert one.merge(two).tensors == whole.tensors
        assert one.merge(two).samples == 30
        assert [part.digest for part in one.merge(two).data_summaries] == ["1", "2"]
        assert one.tensors["a"].count == 50

    def test_a_tensor_without_value_is_our_bug(self) -> None:
        with pytest.raises(InternalError, match="'b'"):
            Statistics.empty(["a", "b"]).update({"a": np.zeros(1)})

    def test_different_models_are_not_merged(self) -> None:
        with pytest.raises(InputError, match="tensor 'c' is in one of them only"):
            Statistics.empty(["a"]).merge(Statistics.empty(["a", "c"]))
