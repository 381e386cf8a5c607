"""The gate of verification on calibration samples: its margin, its figure, and parts of outputs."""

from __future__ import annotations

import numpy as np
import pytest

from trtpipe.accuracy.comparison import OutputComparison
from trtpipe.config.formats import Precision
from trtpipe.config.profile import OutputTolerance, Tolerance
from trtpipe.quantization.output_gate import MARGIN, PART, OutputGate, Reference
from trtpipe.quantization.output_noise import OutputNoise

INT8 = Precision("int8")


def feeds(count: int = 8, size: int = 400) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{"y": random.standard_normal((1, size)).astype(np.float32)} for _ in range(count)]


def noisy(expected: list[dict[str, np.ndarray]], share: float, name: str = "y") -> list[dict[str, np.ndarray]]:
    """With noise of this amplitude, relative to values of unit variance."""
    random = np.random.default_rng(1)
    return [
        {**each, name: (each[name] + share * random.standard_normal(each[name].shape)).astype(np.float32)}
        for each in expected
    ]


def used(gate: OutputGate, results: list[dict[str, np.ndarray]]) -> float:
    trial = gate.begin()
    assert list(trial.passing(results)) == results
    return trial.used


@pytest.mark.parametrize("share", [0.02, 0.1, 0.15, 0.17, 0.2, 0.3, 0.5])
def test_what_holds_here_holds_in_verification(share: float) -> None:
    expected = feeds()
    found = noisy(expected, share)
    comparison = OutputComparison(Tolerance(), INT8)
    for mine, theirs in zip(found, expected, strict=True):
        comparison.add(mine, theirs)
    (verdict,) = comparison.results()
    if used(OutputGate(Tolerance(), INT8, expected, ("y",)), found) <= 1:
        assert verdict.passed
    if not verdict.passed:
        assert used(OutputGate(Tolerance(), INT8, expected, ("y",)), found) > 1


def spread(expected: list[dict[str, np.ndarray]]) -> float:
    """Standard deviation of what the samples change."""
    values = np.stack([each["y"] for each in expected])
    return float(np.sqrt(values.var(axis=0, ddof=1).mean()))


def test_the_figure_is_noise_power_over_what_the_margin_leaves() -> None:
    """A mean error of 0.2 of the spread and 0.02 is allowed; normal noise has sqrt(2 / pi) of its deviation."""
    expected = feeds(size=4000)
    allowed = MARGIN * (0.02 + 0.2 * spread(expected))
    figure = used(OutputGate(Tolerance(min_cosine=-1, min_snr_db=-99), INT8, expected, ("y",)), noisy(expected, 0.1))
    assert figure == pytest.approx((0.1 * np.sqrt(2 / np.pi) / allowed) ** 2, rel=0.03)


def test_the_figure_is_that_of_the_signal_to_noise_ratio_where_that_is_stricter() -> None:
    """17 dB leave a 50th of the signal's power to the noise."""
    expected = feeds(size=4000)
    figure = used(OutputGate(Tolerance(), INT8, expected, ("y",)), noisy(expected, 0.1))
    assert figure == pytest.approx(0.1**2 / (MARGIN * spread(expected)) ** 2 * 10**1.7, rel=0.03)
    lax = OutputGate(Tolerance(min_snr_db=10), INT8, expected, ("y",))
    assert used(lax, noisy(expected, 0.1)) < figure / 2


def test_an_offset_excuses_no_error() -> None:
    expected = [{"y": each["y"] + np.float32(100)} for each in feeds()]
    assert used(OutputGate(Tolerance(), INT8, expected, ("y",)), noisy(expected, 0.5)) > 1


def test_a_verdict_without_a_mean_decides_alone() -> None:
    expected = feeds()
    strict, lax = (Tolerance(atol=each, rtol=0, stat="max", min_cosine=-1, min_snr_db=-99) for each in (0.01, 10.0))
    assert used(OutputGate(strict, INT8, expected, ("y",)), noisy(expected, 0.1)) > 1
    assert used(OutputGate(lax, INT8, expected, ("y",)), noisy(expected, 0.1)) <= 1


def test_an_output_has_its_own_tolerance() -> None:
    expected = feeds()
    own = Tolerance(outputs={"y": OutputTolerance(min_cosine=0.99999)})
    assert used(OutputGate(own, INT8, expected, ("y",)), noisy(expected, 0.1)) > 100
    assert used(OutputGate(Tolerance(), INT8, expected, ("y",)), noisy(expected, 0.1)) < 1


def test_values_that_are_not_finite_use_more_than_there_is() -> None:
    expected = feeds()
    found = [{"y": np.full_like(each["y"], np.nan)} for each in expected]
    assert used(OutputGate(Tolerance(), INT8, expected, ("y",)), found) > 1


def test_shapes_that_depend_on_values_are_left_out() -> None:
    expected = feeds()
    found = [{"y": each["y"][:, :-1]} for each in expected]
    assert used(OutputGate(Tolerance(), INT8, expected, ("y",)), found) == 0


def test_a_faint_part_is_judged_by_itself() -> None:
    """Scores beside boxes that are a thousand times larger: all noise of the scores is lost in the whole."""
    random = np.random.default_rng(0)
    expected = []
    for _ in range(8):
        boxes, scores = (random.standard_normal((1, 100)).astype(np.float32) for _ in range(2))
        expected.append({"y": np.concatenate([1000 * boxes, scores], 1), "boxes": 1000 * boxes, "scores": scores})
    found = noisy(expected, 0.3, "scores")
    noise = OutputNoise(expected, ("boxes", "scores"))
    gate = OutputGate(Tolerance(), INT8, expected, ("y",))
    decibels, whole = Reference(noise, gate, joined=False).evaluate(found)
    assert whole < 1e-3
    assert Reference(noise, gate, joined=True).evaluate(found)[1] == pytest.approx(0.3**2 / 10 ** (PART / 10), rel=0.1)
    assert decibels.shape == (8,)


def test_what_is_taken_in_part_by_part_is_judged_as_a_whole() -> None:
    expected = feeds()
    found = [{"y": each["y"] + np.float32(0.01 * (index + 1)) * each["y"]} for index, each in enumerate(expected)]
    reference = Reference(OutputNoise(expected), OutputGate(Tolerance(), INT8, expected, ("y",)), joined=False)
    noise, used = reference.evaluate(found)
    parts = reference.begin()
    parts.take([1, 3, 5, 7], (found[index] for index in (1, 3, 5, 7)))
    np.testing.assert_array_equal(parts.noise, noise[1::2])
    parts.take([0, 2, 4, 6], (found[index] for index in (0, 2, 4, 6)))
    np.testing.assert_array_equal(parts.noise, noise)
    assert parts.used == pytest.approx(used)
