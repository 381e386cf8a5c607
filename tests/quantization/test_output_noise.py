from __future__ import annotations

import numpy as np
import pytest

from trtpipe.quantization.output_noise import OutputNoise

Y = np.random.default_rng(0).normal(size=(4, 10))
Y = (Y - Y.mean()).astype(np.float32)


def noise(expected, found):
    measure = OutputNoise(expected)
    return float(np.mean([measure.shares(index, outputs) for index, outputs in enumerate(found)]))


def test_it_is_noise_power_over_signal_power():
    gap = np.random.default_rng(1).normal(size=Y.shape).astype(np.float32) * np.float32(0.1)
    wanted = float(np.square(gap.astype(np.float64)).sum() / np.square(Y.astype(np.float64)).sum())
    assert noise([{"y": Y}], [{"y": Y + gap}]) == pytest.approx(wanted, rel=1e-4)
    assert noise([{"y": Y}], [{"y": Y}]) == 0


def test_an_offset_is_no_signal():
    """Half of the values are 8, half are 12: power 4 about 10, where power about 0 would be 104."""
    values = np.tile(np.array([8, 12], np.float32), 8)
    assert noise([{"y": values}], [{"y": values + np.float32(0.5)}]) == pytest.approx(0.25 / 4)
    feeds = [{"y": np.full(4, 8, np.float32)}, {"y": np.full(4, 12, np.float32)}]  # the mean is over both
    assert noise(feeds, [{"y": feed["y"] + np.float32(0.5)} for feed in feeds]) == pytest.approx(0.25 / 4)


def test_an_output_that_hardly_changes_does_not_decide():
    values = np.full(16, 10, np.float32)
    assert noise([{"y": values}], [{"y": values + np.float32(0.5)}]) == pytest.approx(0.25 / (0.01 * 100))


def test_every_feed_and_output_weighs_the_same():
    expected = [{"y": Y, "z": 100 * Y}, {"y": Y, "z": 100 * Y}]
    found = [{"y": 2 * Y, "z": 100 * Y}, {"y": Y, "z": 100 * Y}]
    assert noise(expected, found) == pytest.approx(1 / 4)


@pytest.mark.parametrize("bad", [np.full_like(Y, np.nan), np.full_like(Y, np.inf), Y[:2]])
def test_what_is_lost_counts_a_lot_but_not_infinitely(bad):
    assert noise([{"y": Y}], [{"y": bad}]) == 1e6


def test_equal_infinities_are_no_noise():
    mask = Y.copy()
    mask[0, 0] = -np.inf
    assert not OutputNoise([{"y": np.full_like(Y, -np.inf)}]).informative
    measure = OutputNoise([{"y": Y, "z": mask}])
    np.testing.assert_array_equal(measure.shares(0, {"y": Y, "z": mask}), [0.0, 0.0])
    other = np.where(mask == mask[0, 1], 0, mask)
    assert measure.shares(0, {"y": Y, "z": other})[1] > 0


def test_silence_does_not_decide():
    loud, silent = {"y": Y}, {"y": np.zeros_like(Y)}
    assert noise([loud, silent], [loud, {"y": np.full_like(Y, 1e-3)}]) < 0.1


@pytest.mark.parametrize("outputs", [{"k": np.arange(3)}, {"y": np.zeros(3, np.float32)}, {}])
def test_outputs_that_say_nothing(outputs):
    assert not OutputNoise([outputs]).informative


def test_decibels_are_averaged_over_outputs():
    measure = OutputNoise([{"y": Y, "z": Y}])
    found = {"y": Y * np.float32(1.1), "z": Y * np.float32(2)}
    assert measure.decibels([found]) == pytest.approx((-20 + 0) / 2, abs=1e-3)
    assert OutputNoise([{"y": Y}]).decibels([{"y": Y}]) == pytest.approx(-120)


def test_some_outputs_count():
    assert OutputNoise([{"y": Y, "z": Y}], ["z"]).shares(0, {"y": 2 * Y, "z": Y}).tolist() == [0.0]


@pytest.mark.parametrize("fill", [-np.inf, -1e9])
def test_what_fills_an_output_hides_no_noise(fill):
    """Masked logits: at the places left, noise of a tenth."""
    masked, expected, found = np.tile([False, True], 200), [], []
    for seed in (1, 2):
        generator = np.random.default_rng(seed)
        plain, noise = generator.normal(size=(2, 400)), generator.normal(size=(2, 400))
        expected.append({"y": np.where(masked, fill, plain).astype(np.float32)})
        found.append({"y": np.where(masked, fill, plain + 0.1 * noise).astype(np.float32)})
    measure = OutputNoise(expected)
    assert measure.informative
    assert measure.decibels(found) == pytest.approx(-20, abs=1)
