from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from trtpipe.calibration.methods import (
    AUTO_METHODS,
    COMPARED_METHODS,
    METHODS,
    CalibrationMethod,
    entropy_amax,
    mse_amax,
    quantizer_of,
)
from trtpipe.calibration.statistics import CumulativeHistogram, TensorStatistics
from trtpipe.config.formats import INT8, find_format

if TYPE_CHECKING:
    from collections.abc import Callable


COUNT = 60_000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


DISTRIBUTIONS: dict[str, Callable[[], np.ndarray]] = {
    "normal": lambda: rng().standard_normal(COUNT),
    "relu": lambda: np.maximum(rng().standard_normal(COUNT), 0),
    "laplace": lambda: rng().laplace(size=COUNT),
    "outlier": lambda: np.append(rng().standard_normal(COUNT), 60.0),
    "uniform": lambda: rng().uniform(-2, 2, COUNT),
    "tiny": lambda: rng().standard_normal(COUNT) * 1e-12,
}


def seen(values: np.ndarray) -> TensorStatistics:
    statistics = TensorStatistics()
    statistics.update(values.astype(np.float32))
    return statistics


def quantized(x: np.ndarray, amax: float, precision: str) -> np.ndarray:
    """Quantize and dequantize, by the formats' definitions."""
    import ml_dtypes

    if precision == "int8":
        scale = amax / 127
        return np.clip(np.rint(x / scale), -127, 127) * scale
    scale = amax / 448
    return np.clip(x / scale, -448, 448).astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * scale


def measured_error(x: np.ndarray, amax: float, precision: str) -> float:
    return float(np.sum((quantized(x, amax, precision) - x) ** 2))


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
class TestMeanSquaredError:
    def test_the_expected_error_is_the_measured_one(self, name: str, precision: str) -> None:
        x = DISTRIBUTIONS[name]().astype(np.float32).astype(np.float64)
        amax = np.abs(x).max() * np.array([1, 0.5, 0.2, 0.05])
        expected = quantizer_of(find_format(precision)).expected_error(CumulativeHistogram.of(seen(x)), amax)
        measured = [measured_error(x, a, precision) for a in amax]
        np.testing.assert_allclose(expected, measured, rtol=0.04)

    def test_no_amax_is_much_better_than_the_chosen_one(self, name: str, precision: str) -> None:
        x = DISTRIBUTIONS[name]().astype(np.float32).astype(np.float64)
        found = measured_error(x, mse_amax(seen(x), 0, find_format(precision)), precision)
        best = min(measured_error(x, a, precision) for a in np.abs(x).max() * np.geomspace(0.02, 1, 60))
        assert found <= 1.02 * best


class TestEntropy:
    def test_a_literal_transcription_agrees(self) -> None:
        for name in ("normal", "laplace", "outlier", "relu"):
            tensor = seen(DISTRIBUTIONS[name]())
            bins = np.diff(CumulativeHistogram.of(tensor).below(np.linspace(0, tensor.largest, 2049), 0))
            amax = min((_literal_entropy(bins) + 0.5) * tensor.largest / 2048, tensor.largest)
            assert entropy_amax(tensor, 0, INT8) == pytest.approx(amax, rel=1e-12)

    def test_an_outlier_is_cut_off(self) -> None:
        assert entropy_amax(seen(DISTRIBUTIONS["outlier"]()), 0, "int8") < 6

    def test_a_uniform_distribution_is_kept_whole(self) -> None:
        x = rng().uniform(-2, 2, COUNT)
        assert entropy_amax(seen(x), 0, INT8) > 1.9


def _literal_entropy(bins: np.ndarray) -> int:
    """The pseudocode of Migacz 2017, word by word."""
    best, best_divergence = 2048, np.inf
    for kept in range(128, 2049):
        p = bins[:kept].copy()
        p[-1] += bins[kept:].sum()
        q = np.zeros(kept)
        edges = np.arange(129) * kept // 128
        for begin, end in pairwise(edges):
            part = bins[begin:end]
            filled = part > 0
            if filled.any():
                q[begin:end][filled] = part.sum() / filled.sum()
        if np.any((p > 0) & (q == 0)):
            continue
        p, q = p / p.sum(), q / q.sum()
        filled = p > 0
        divergence = float(np.sum(p[filled] * np.log(p[filled] / q[filled])))
        if divergence < best_divergence - 1e-13:
            best, best_divergence = kept, divergence
    return best


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["int8", "fp8"])
class TestEveryMethod:
    def test_power_of_two_scaling_scales_the_range(self, method: str, precision: str) -> None:
        x = DISTRIBUTIONS["laplace"]()
        small, large = (METHODS[method](seen(x * scale), 99.9, find_format(precision)) for scale in (1, 1024))  # type: ignore[index]
        assert large == pytest.approx(1024 * small, rel=1e-12)

    def test_odd_tensors(self, method: str, precision: str) -> None:
        for values in (np.full(5, -1.5), np.array([3.0]), np.array([0, 0, 0, 1e-40]), np.array([1e38, -1e-38])):
            amax = METHODS[method](seen(values), 99.99, find_format(precision))  # type: ignore[index]
            assert 0 <= amax <= np.float32(np.abs(values).max())
        assert METHODS[method](seen(np.zeros(9)), 99.99, find_format(precision)) == 0  # type: ignore[index]

    def test_order_and_batches_change_nothing(self, method: str, precision: str) -> None:
        x = rng(3).standard_cauchy((40, 250)).astype(np.float32)
        merged = TensorStatistics()
        for row in x[::-1]:
            merged = merged.merge(seen(row))
        one, other = (METHODS[method](tensor, 99.9, find_format(precision)) for tensor in (seen(x), merged))  # type: ignore[index]
        assert one == other


def test_the_choices_are_the_documented_ones() -> None:
    assert {str(choice) for choice in COMPARED_METHODS} == {
        "max", "mse", "entropy", "percentile 99.9", "percentile 99.99", "percentile 99.999", "percentile 99.9999",
    }  # fmt: skip
    assert {str(choice) for choice in COMPARED_METHODS} > {str(choice) for choice in AUTO_METHODS}
    assert str(CalibrationMethod("percentile", 99.9999)) == "percentile 99.9999"
