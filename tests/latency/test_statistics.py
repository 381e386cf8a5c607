"""The figures, against numpy, hand-made examples and intervals of known coverage."""

from __future__ import annotations

import numpy as np
import pytest

from trtpipe.latency.statistics import interval, spread, times, windows


def test_figures_are_in_milliseconds():
    seconds = np.random.default_rng(0).gamma(2.0, 3.0, 1000) / 1e3
    found = times(seconds)
    ms = seconds * 1e3
    assert (found.min, found.max, found.mean) == pytest.approx((ms.min(), ms.max(), ms.mean()))
    assert found.median == pytest.approx(np.median(ms))
    assert found.cov == pytest.approx(100 * ms.std() / ms.mean())


@pytest.mark.parametrize(
    ("count", "p90", "p95", "p99"),
    [(1, 1, 1, 1), (9, 9, 9, 9), (10, 9, 10, 10), (20, 18, 19, 20), (100, 90, 95, 99), (250, 225, 238, 248)],
)
def test_a_percentile_is_the_slowest_run_that_is_left(count, p90, p95, p99):
    """trtexec leaves out floor((100 - p) / 100 * count) runs: of 250 runs 25, 12 and 2."""
    found = times(np.random.default_rng(1).permutation(np.arange(1, count + 1)) / 1e3)
    assert (found.p90, found.p95, found.p99) == pytest.approx((p90, p95, p99))


def test_equal_times_have_no_variation():
    found = times([0.005] * 4)
    assert (found.min, found.median, found.p99, found.max) == pytest.approx((5, 5, 5, 5))
    assert found.cov == pytest.approx(0)


def test_windows_follow_the_order_of_the_runs():
    seconds = np.repeat(np.arange(1, 11), 7) / 1e3
    assert windows(seconds) == pytest.approx(range(1, 11))
    assert windows([0.001, 0.002, 0.004]) == pytest.approx([1, 2, 4])


def test_spread_is_a_share_of_the_median_window():
    assert spread([10.0, 11.0, 10.0]) == pytest.approx(10)
    assert spread([5.0]) == 0


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """200 experiments of 30 rounds around a ratio of 1.1: the 95 % interval of the median holds it in nearly 95 %."""
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        low, high = interval(1.1 * np.exp(0.05 * generator.normal(size=30)))
        covered += low <= 1.1 <= high
    assert 180 <= covered <= 198


def test_the_interval_is_narrower_with_more_rounds_and_less_confidence():
    ratios = 1.0 + 0.1 * np.random.default_rng(2).normal(size=400)
    wide, narrow = (np.diff(interval(part))[0] for part in (ratios[:25], ratios))
    assert narrow < wide
    assert np.diff(interval(ratios, confidence=0.5))[0] < narrow


def test_equal_input_gives_an_equal_interval():
    ratios = 1.0 + 0.1 * np.random.default_rng(3).normal(size=30)
    assert interval(ratios) == interval(ratios)
    assert interval(ratios) != interval(ratios, seed=1)
