"""The noise that is expected of rounding, beside what is measured."""

from __future__ import annotations

import numpy as np
import pytest
from models import model, normal
from planning import prepared, settings

from trtpipe.calibration.statistics import Statistics
from trtpipe.config.formats import FORMATS
from trtpipe.quantization.plan import plan
from trtpipe.quantization.qdq import quantize_weight, rounded
from trtpipe.quantization.rounding_estimate import (
    Noise,
    RoundingEstimate,
    Smoothed,
    falls_by,
    without_rounded_weights,
)
from trtpipe.quantization.smooth_quant import smoothing_factors

#: One channel is a hundred times larger than the others.
UNEVEN = np.array([100, *(1,) * 15], np.float32)
EVEN = np.ones(16, np.float32)


def product(precision: str, amax: float, uneven: np.ndarray) -> tuple[RoundingEstimate, np.ndarray, np.ndarray]:
    """The estimate of a product behind a normalization, which can be smoothed; its inputs, and its weight."""
    weight = normal(16, 24, seed=5)
    proto = model(
        "(float[N,16] x) => (float[N,24] y) { n = LayerNormalization(x, s, o) y = MatMul(n, w) }",
        s=uneven, o=np.zeros(16, np.float32), w=weight,
    )  # fmt: skip
    graph = prepared(proto)
    quantization = plan(graph, settings(precision)).with_ranges({"n": amax})
    values = normal(512, 16, seed=1) * uneven
    statistics = Statistics.empty(["n"])
    statistics.update({"n": values})
    return RoundingEstimate(graph, quantization, statistics), values, weight


def power(values: np.ndarray) -> np.ndarray:
    """Of every channel."""
    found: np.ndarray = np.square(values, dtype=np.float64).sum(axis=0)
    return found


@pytest.mark.parametrize(
    ("precision", "amax", "uneven"),
    [("int8", 3.5, EVEN), ("int8", 1.5, EVEN), ("int8", 350.0, UNEVEN), ("fp8", 3.5, EVEN), ("fp8", 900.0, EVEN)],
)
def test_it_is_near_what_is_measured(precision: str, amax: float, uneven: np.ndarray) -> None:
    estimate, values, weight = product(precision, amax, uneven)
    form = next(each for each in FORMATS if each.name == precision)
    known = {"n": Smoothed(np.abs(values).max(axis=0), EVEN)} if uneven is UNEVEN else {}
    (found,) = estimate.noises(known)
    step = np.float32(amax / form.largest)
    codes, scale = quantize_weight(weight, 1 if form.granularity == "channel" else None, form)
    errors = rounded(values, step, form) * step - values, codes.astype(np.float32) * scale - weight
    signal = power(values @ weight)
    assert found.inputs == pytest.approx(float((power(errors[0] @ weight) / signal).mean()), rel=0.5)
    assert found.weights == pytest.approx(float((power(values @ errors[1]) / signal).mean()), rel=0.5)


def test_smoothing_is_worth_it_where_channels_are_uneven() -> None:
    estimate, values, weight = product("int8", 350.0, UNEVEN)
    seen = np.abs(values).max(axis=0)
    even = {"n": Smoothed(seen, EVEN)}
    smooth = {"n": Smoothed(seen, smoothing_factors(seen, np.abs(weight).max(axis=1), 0.5))}
    assert falls_by(estimate.noises(even), estimate.noises(smooth)) > 1
    assert falls_by(estimate.noises(even), estimate.noises(even)) == 0


def test_the_share_of_weights() -> None:
    assert without_rounded_weights([Noise(1e-3, 0), Noise(1e-3, 0)]) == 0
    assert without_rounded_weights([Noise(1e-3, 1e-3), Noise(1e-5, 1e-5)]) == pytest.approx(3.01, abs=0.01)
    assert without_rounded_weights([]) == 0


def test_channels_without_signal_count_for_nothing() -> None:
    estimate, _, _ = product("int8", 350.0, UNEVEN)
    assert estimate.noises({"n": Smoothed(np.zeros(16, np.float32), EVEN)}) == []
