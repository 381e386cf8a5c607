from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from trtpipe.calibration.data_summary import DataSummary
from trtpipe.calibration.methods import max_amax, percentile_amax
from trtpipe.calibration.ranges import Ranges, ranges_from_statistics
from trtpipe.calibration.statistics import Statistics, TensorStatistics
from trtpipe.config.formats import FP8, INT8
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RNG = np.random.default_rng(0)
DISTRIBUTIONS: dict[str, Callable[[int], np.ndarray]] = {
    "normal": RNG.standard_normal,
    "uniform": lambda n: RNG.uniform(-3, 1, n),
    "relu": lambda n: np.maximum(RNG.standard_normal(n), 0),
    "heavy tail": RNG.standard_cauchy,
    "outlier": lambda n: np.append(RNG.uniform(0, 1, n - 1), 1e4),
    "two clusters": lambda n: np.where(RNG.random(n) < 0.999, RNG.normal(1, 0.01, n), RNG.normal(500, 5, n)),
    "tiny": lambda n: RNG.standard_normal(n) * 1e-20,
    "huge": lambda n: RNG.standard_normal(n) * 1e30,
    "steps": lambda n: RNG.integers(-8, 8, n) / 4,
    "negative": lambda n: -RNG.exponential(5, n),
    "constant": lambda n: np.full(n, -1.7),
}

#: The width of a bin relative to its lower edge, at most, as docs/calibration.md states it.
RESOLUTION = 2.0**-7


def seen(values: np.ndarray) -> TensorStatistics:
    statistics = TensorStatistics()
    statistics.update(values.astype(np.float32))
    return statistics


def derive(values: np.ndarray, method: str = "percentile", percentile: float = 99.99) -> Ranges:
    return ranges_from_statistics(Statistics({"t": seen(values)}), method, percentile)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
class TestAgainstBruteForce:
    @pytest.mark.parametrize("count", [2, 37, 1000, 200_000])
    @pytest.mark.parametrize("percentile", [51, 90, 99, 99.9, 99.99, 99.9999, 100])
    def test_percentile(self, name: str, count: int, percentile: float) -> None:
        x = DISTRIBUTIONS[name](count).astype(np.float32)
        exact = float(np.percentile(np.abs(x).astype(np.float64), percentile))
        found = percentile_amax(seen(x), percentile, INT8)
        assert abs(found - exact) <= RESOLUTION * exact
        assert found <= float(np.abs(x).max())

    def test_max(self, name: str) -> None:
        x = DISTRIBUTIONS[name](5000).astype(np.float32)
        assert max_amax(seen(x), 50, INT8) == float(np.abs(x).max())


class TestResolution:
    def test_smooth_distributions_do_far_better_than_the_bound(self) -> None:
        x = np.random.default_rng(1).standard_normal(1_000_000).astype(np.float32)
        for percentile in (60, 90, 99, 99.9):
            exact = np.percentile(np.abs(x), percentile)
            assert abs(percentile_amax(seen(x), percentile, INT8) - exact) <= 0.05 * RESOLUTION * exact

    def test_no_error_for_one_magnitude_and_at_a_hundred(self) -> None:
        assert percentile_amax(seen(np.full(1000, 1.7)), 60, INT8) == float(np.float32(1.7))
        x = np.random.default_rng(1).standard_normal(999).astype(np.float32)
        assert percentile_amax(seen(x), 100, INT8) == float(np.abs(x).max())

    def test_subnormal_magnitudes_have_an_absolute_bound(self) -> None:
        x = np.random.default_rng(1).uniform(0, 1e-38, 1000).astype(np.float32)
        for percentile in (51, 75, 99):
            assert (
                abs(percentile_amax(seen(x), percentile, INT8) - np.percentile(x.astype(float), percentile))
                <= 2.0**-133
            )


class TestDerive:
    def test_max_and_percentile(self) -> None:
        x = np.append(np.linspace(-1, 1, 99_999), 400.0)
        by_max, by_percentile = derive(x, "max"), derive(x, percentile=99.9)
        assert by_max.tensors["t"].amax == 400
        assert by_percentile.tensors["t"].amax == pytest.approx(1, rel=RESOLUTION)
        assert (by_max.percentile, by_percentile.percentile) == (None, 99.9)
        assert {by_max.tensors["t"].method, by_percentile.tensors["t"].method} == {"max", "percentile"}
        assert (by_max.tensors["t"].minimum, by_max.tensors["t"].maximum) == (-1, 400)

    def test_amax_is_a_float32_value(self) -> None:
        amax = derive(np.random.default_rng(0).standard_normal(1000), percentile=77).tensors["t"].amax
        assert float(np.float32(amax)) == amax

    def test_a_tensor_of_zeros_has_amax_0_and_says_so(self) -> None:
        for method in ("max", "percentile"):
            found = derive(np.zeros(10), method).tensors["t"]
            assert (found.amax, found.note) == (0, "always 0")

    @pytest.mark.parametrize("rare", [3.0, -3.0, 1e-45])
    def test_a_tensor_that_is_mostly_zero_is_never_clipped_to_nothing(self, rare: float) -> None:
        x = np.zeros(1_000_000)
        x[:5] = rare
        found = derive(x, percentile=99.99).tensors["t"]
        assert found.amax == abs(float(np.float32(rare)))
        assert "more than 99.99 % of the values are 0" in found.note

    def test_zeros_count_as_values(self) -> None:
        x = np.concatenate([np.zeros(9000), np.linspace(1, 2, 1000)])
        assert derive(x, percentile=95).tensors["t"].amax == pytest.approx(np.percentile(x, 95), rel=RESOLUTION)

    def test_unusable_statistics_are_refused_by_name(self) -> None:
        with pytest.raises(InputError, match="tensor 't' held no values"):
            derive(np.zeros(0))
        with pytest.raises(InputError, match="tensor 't' held NaN or infinity 2 times"):
            derive(np.array([1, np.nan, np.inf]))

    def test_batch_size_and_order_change_no_byte(self) -> None:
        rng = np.random.default_rng(2)
        x = rng.standard_cauchy((60, 500)).astype(np.float32)
        texts = set()
        for batch in (1, 2, 3, 60):
            statistics = Statistics.empty(["t"])
            for part in np.split(x[rng.permutation(60)], 60 // batch):
                statistics.update({"t": part})
            texts.add(ranges_from_statistics(statistics, "percentile", 99.9).to_json())
        assert len(texts) == 1


def test_round_trip(tmp_path: Path) -> None:
    statistics = Statistics({"b": seen(np.arange(5.0)), "a": seen(np.zeros(3))})
    statistics.data_summaries = (DataSummary(source="d", samples=5, feeds=5, digest="0" * 64, inputs={}),)
    ranges = ranges_from_statistics(statistics, "percentile", 99.5)
    ranges.write(tmp_path / "ranges.json")
    assert Ranges.read(tmp_path / "ranges.json") == ranges
    assert (ranges.samples, list(ranges.tensors)) == (5, ["a", "b"])
    text = (tmp_path / "ranges.json").read_text()
    for old, new in (('"amax": 0.0', '"amax": -1.0'), ('"schema_version": 3', '"schema_version": 1')):
        assert old in text
        (tmp_path / "bad.json").write_text(text.replace(old, new))
        with pytest.raises(InputError, match=r"bad\.json"):
            Ranges.read(tmp_path / "bad.json")


class TestRangesTooWide:
    """A few values like no others, as what a mask hides, leave the others no step of their own."""

    @staticmethod
    def filled(fill: float, ordinary: float = 1.0) -> np.ndarray:
        return np.concatenate([np.full(200, fill), np.linspace(-2, 2, 1000) * ordinary, np.zeros(3000)])

    @pytest.mark.parametrize("fill", [1500, -6144, 1e4, -65504, -3e38])
    def test_ordinary_values_that_would_all_become_0_have_no_range(self, fill: float) -> None:
        ranges = derive(self.filled(fill))
        assert not ranges.tensors
        assert ranges.not_quantizable == {"t": ranges.not_quantizable["t"]}
        assert (
            f"the range of 't' is {abs(fill):.3g}, the median of its nonzero magnitudes 1."
            in ranges.not_quantizable["t"]
        )
        assert "int8 would round most values to 0" in ranges.not_quantizable["t"]

    @pytest.mark.parametrize("fill", [1, -20, 250, 1000])
    def test_others_keep_theirs(self, fill: float) -> None:
        ranges = derive(self.filled(fill))
        assert not ranges.not_quantizable
        assert ranges.tensors["t"].amax == pytest.approx(max(abs(fill), 2), rel=RESOLUTION)

    def test_a_range_that_leaves_the_fill_out_serves_the_others(self) -> None:
        assert not derive(np.append(np.linspace(-2, 2, 100_000), 1e6)).not_quantizable
        assert derive(np.append(np.linspace(-2, 2, 100_000), 1e6), "max").not_quantizable

    def test_floating_point_reaches_farther(self) -> None:
        statistics = Statistics({"t": seen(self.filled(1e4)), "u": seen(self.filled(1e7))})
        ranges = ranges_from_statistics(statistics, "percentile", 99.99, FP8)
        assert set(ranges.tensors) == {"t"}
        assert "fp8 would round" in ranges.not_quantizable["u"]

    @pytest.mark.parametrize("name", [name for name in DISTRIBUTIONS if name not in ("outlier", "heavy tail")])
    def test_no_ordinary_distribution_is_too_wide(self, name: str) -> None:
        assert not derive(DISTRIBUTIONS[name](50_000), "max").not_quantizable
