from __future__ import annotations

import numpy as np
import pytest
from models import FLOAT_MAX

from trtpipe.config.formats import INT8, find_format
from trtpipe.quantization.qdq import quantize_weight


class TestWeightsByLeastError:
    def error(self, weight: np.ndarray, axis: int | None, precision: str, method: str) -> np.ndarray:
        quantized, scale = quantize_weight(weight, axis, find_format(precision), method)  # type: ignore[arg-type]
        assert quantized.shape == weight.shape
        shaped = scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        others = tuple(i for i in range(weight.ndim) if i != axis)
        return np.sum((quantized.astype(np.float64) * shaped - weight) ** 2, axis=None if axis is None else others)

    @pytest.mark.parametrize("precision", ["int8", "fp8"])
    @pytest.mark.parametrize("axis", [0, 1, None])
    def test_no_channel_gets_worse(self, axis: int | None, precision: str) -> None:
        weight = np.random.default_rng(0).standard_t(3, (6, 5, 40)).astype(np.float32)
        by_max, by_mse = (self.error(weight, axis, precision, method) for method in ("max", "mse"))
        assert np.all(by_mse <= by_max * (1 + 1e-6))

    def test_outliers_are_clipped(self) -> None:
        weight = np.random.default_rng(0).standard_normal((2, 60_000)).astype(np.float32)
        weight[:, 7] = 12  # costs every other weight of the channel
        by_max, by_mse = (self.error(weight, 0, "int8", method) for method in ("max", "mse"))
        assert by_mse.sum() < 0.85 * by_max.sum()

    def test_odd_channels(self) -> None:
        weight = np.array([[0, 0], [1e-42, 0], [FLOAT_MAX, 1], [5, -5]], np.float32)
        quantized, scale = quantize_weight(weight, 0, INT8, "mse")
        assert np.isfinite(scale).all()
        assert (scale > 0).all()
        assert quantized[0].tolist() == [0, 0]
        assert quantized[3].tolist() == [127, -127]
