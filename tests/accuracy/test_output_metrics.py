"""What one output is judged by: values that count, those that fill, and shares of equal integers."""

from __future__ import annotations

import numpy as np
import pytest

from trtpipe.accuracy.alignment import fillings
from trtpipe.accuracy.comparison import OutputComparison
from trtpipe.accuracy.output_metrics import EqualValues, LargestDifference
from trtpipe.config.formats import Precision
from trtpipe.config.profile import Tolerance


def test_the_worst_element_is_named_by_its_place():
    worst = LargestDifference()
    theirs = np.zeros((2, 3), np.float32)
    for feed, (place, gap) in enumerate([((0, 1), 1.0), ((1, 2), 5.0), ((1, 0), 2.0)]):
        mine = theirs.copy()
        mine[place] = gap
        worst.add(mine.ravel(), theirs.ravel(), theirs.shape, feed)
    assert (worst.feed, worst.index, worst.gap) == (1, (1, 2), 5.0)
    mine[0, 0] = np.nan
    worst.add(mine.ravel(), theirs.ravel(), theirs.shape, 3)
    assert (worst.feed, worst.index) == (3, (0, 0))


def judged(found, wanted, precision="int8", real=True, **tolerance):
    """The verdict on one output, feed by feed, and what was noticed."""
    comparison = OutputComparison(Tolerance.model_validate(tolerance), Precision(precision), real=real)
    for mine, theirs in zip(found, wanted, strict=True):
        comparison.add({"y": mine}, {"y": theirs})
    [result] = comparison.results()
    return result, comparison.hints


def noise(seed, feeds=16, shape=(1, 16)):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape).astype(np.float32) for _ in range(feeds)]


def masked(values, fill, same_place=True):
    """With ``fill`` in one place of each feed."""
    result = [value.copy() for value in values]
    for number, value in enumerate(result):
        value[0, 3 if same_place else number % 16] = fill
    return result


class TestFillings:
    """Masked logits: what fills says nothing of the rest."""

    @pytest.mark.parametrize("same_place", [True, False])
    @pytest.mark.parametrize("fill", [-np.inf, np.inf, -1e9, -65504, -1e4, np.finfo(np.float32).min])
    def test_they_hide_no_error_of_the_rest(self, fill, same_place):
        wanted = masked(noise(0), fill, same_place)
        for precision, real in (("int8", True), ("fp32", True), ("int8", False)):
            assert not judged(masked(noise(1), fill, same_place), wanted, precision, real)[0].passed
        right = [value + np.float32(0.01) * other for value, other in zip(noise(0), noise(1), strict=True)]
        result, hints = judged(masked(right, fill, same_place), wanted)
        assert (result.passed, hints) == (True, ())
        assert result.snr_db == pytest.approx(40, abs=1)
        assert result.mean_abs == pytest.approx(0.008, abs=0.001), "of what counts alone"

    def test_what_masks_leave_has_its_own_mean(self):
        """Of logits about -290 that are masked now and then, errors are not small beside that distance from 0."""
        wanted, found = ([value - 290 for value in noise(seed)] for seed in (0, 1))
        assert not judged(masked(found, -1e9, False), masked(wanted, -1e9, False))[0].passed

    @pytest.mark.parametrize("other", [-65504, 3.0, np.nan])
    def test_another_filling_fails_and_is_named(self, other):
        wanted = masked(noise(0), -np.inf)
        result, hints = judged(masked(noise(0), other), wanted)
        assert not result.passed
        assert 'ignore = {"y" = -inf}' in hints[0]
        assert judged(masked(noise(0), other), wanted, ignore={"y": -np.inf})[0].passed
        _, hints = judged(masked(noise(1), other), wanted)
        assert hints == (), "the rest is wrong, too"

    def test_nan_in_both_is_not_passed_but_can_be_left_out(self):
        wanted = masked(noise(0), np.nan)
        result, hints = judged(wanted, wanted)
        assert not result.passed
        assert 'ignore = {"y" = nan}' in hints[0]
        assert judged(wanted, wanted, ignore={"y": np.nan})[0].passed
        assert not judged(masked(noise(1), np.nan), wanted, ignore={"y": np.nan})[0].passed

    @pytest.mark.parametrize(
        "values",
        [
            [1.0, 1e-9, 0.0],  # a sure softmax
            [5e5, 2e5, 9e3],  # large values, no gap
            [0.0, 65535.0, 0.0],  # a bitmap
            [0.0, 0.0, 0.0],
            [],
        ],
    )
    def test_what_is_none(self, values):
        assert not fillings(np.array(values, np.float32)).any()

    def test_values_that_were_added_to_them_are_some_as_well(self):
        values = np.float32([0.5, -3, -1e9, -1e9 + 64, -2e9, np.inf])
        assert fillings(values).tolist() == [False, False, True, True, True, True]


class TestWhatCannotFail:
    def test_an_output_without_values_is_said(self):
        empty = [np.zeros((0, 7), np.float32)] * 4
        assert "no value that counts" in judged(empty, empty)[1][0]
        ignored = [np.full((1, 7), 3, np.float32)] * 4
        assert "no value that counts" in judged(empty, empty, ignore={"y": 3.0})[1][0]
        assert "no value that counts" in judged(ignored, ignored, ignore={"y": 3.0})[1][0]

    @pytest.mark.parametrize("value", [np.full((1, 3), 290, np.float32), np.full((1, 3), 7), np.zeros((1, 3))])
    def test_one_that_no_sample_changes_is_said(self, value):
        result, hints = judged([value] * 3, [value] * 3)
        assert result.passed
        assert "same for all samples" in hints[0]
        assert judged([value], [value])[1] == (), "one sample tells nothing"

    def test_large_float64_is_not_made_infinite(self):
        wanted, found = ([1e300 * value.astype(np.float64) for value in noise(seed)] for seed in (0, 1))
        assert not judged(found, wanted)[0].passed


@pytest.mark.parametrize(("precision", "least"), [("fp16", 30), ("bf16", 20), ("int8", 17)])
def test_normal_errors_are_judged_by_their_snr(precision, least):
    """No other default turns away what is half a decibel better, or lets pass what is worse."""
    wanted = noise(0, shape=(1, 2000))
    for decibels, passed in ((least + 0.5, True), (least - 0.5, False)):
        scale = np.float32(10 ** (-decibels / 20))
        found = [value + scale * other for value, other in zip(wanted, noise(1, shape=(1, 2000)), strict=True)]
        assert judged(found, wanted, precision)[0].passed is passed


class TestOneSample:
    """What the input changes is not seen; what the elements differ by is."""

    def test_an_offset_of_all_elements_changes_no_figure(self):
        wanted, found = noise(0, feeds=1, shape=(1, 64)), noise(1, feeds=1, shape=(1, 64))
        plain, _ = judged(found, wanted)
        moved, _ = judged([value + 290 for value in found], [value + 290 for value in wanted])
        assert (plain.passed, moved.passed) == (False, False)
        assert moved.cosine == pytest.approx(plain.cosine, abs=1e-4)
        assert moved.snr_db == pytest.approx(plain.snr_db, abs=1e-2)
        assert moved.spread == pytest.approx(np.std(wanted[0], ddof=1), rel=1e-3)

    def test_small_errors_pass(self):
        [value] = noise(0, feeds=1, shape=(1, 64))
        assert judged([value + np.float32(0.01) * noise(1, 1, (1, 64))[0]], [value])[0].passed

    def test_a_single_element_has_only_its_magnitude(self):
        result, _ = judged([np.float32([[2.01]])], [np.float32([[2.0]])])
        assert (result.passed, result.about_mean) == (True, False)


class TestChannelsOfDifferentScale:
    """Boxes in pixels and scores in one output: each has to be as good as the output is asked to be."""

    @staticmethod
    def joined(error, axis=1, shape=(1, 6), offset=50.0):
        """Three channels that vary by 30 and three that vary by 0.2, these with ``error`` of what they vary by."""
        scale = np.float32([30] * 3 + [0.2] * 3).reshape([-1 if each == axis else 1 for each in range(len(shape))])
        relative = np.float32([1e-3] * 3 + [error] * 3).reshape(scale.shape)
        wanted = [offset + scale * value for value in noise(0, shape=shape)]
        found = [value + scale * relative * other for value, other in zip(wanted, noise(1, shape=shape), strict=True)]
        return found, wanted

    @pytest.mark.parametrize(("axis", "shape"), [(1, (1, 6)), (1, (1, 6, 40)), (2, (1, 40, 6)), (1, (1, 6, 5, 4))])
    def test_the_small_ones_are_judged_alone(self, axis, shape):
        result, hints = judged(*self.joined(0.6, axis, shape))
        assert (result.passed, result.broken) == (False, ("snr",))
        assert result.snr_db == pytest.approx(-20 * np.log10(0.6), abs=1.5)
        assert f"channels 3, 4, 5 (axis {axis})" in hints[0]

    def test_they_pass_with_small_errors(self):
        result, _ = judged(*self.joined(0.01))
        assert result.passed
        assert result.snr_db == pytest.approx(40, abs=2)

    def test_one_output_is_judged_as_two_are(self):
        found, wanted = self.joined(0.6)
        alone, _ = judged([value[:, 3:] for value in found], [value[:, 3:] for value in wanted])
        assert judged(found, wanted)[0].snr_db == pytest.approx(alone.snr_db, abs=0.01)

    def test_probabilities_are_of_one_scale(self):
        """A class that hardly occurs is no part of its own."""
        wanted = [
            np.float32([[0.5, 0.3, 1e-3]]) + np.float32([[0.1, 0.1, 1e-4]]) * np.tanh(n) for n in noise(0, 16, (1, 3))
        ]
        found = [
            value + np.float32([[1e-3, 1e-3, 1e-4]]) * other
            for value, other in zip(wanted, noise(1, 16, (1, 3)), strict=True)
        ]
        assert judged(found, wanted)[0].passed

    def test_constant_channels_say_nothing(self):
        found, wanted = self.joined(0.01)
        for value in (*found, *wanted):
            value[:, 4] = 7
        assert judged(found, wanted)[0].passed
        found[0][:, 4] = 7.001
        assert judged(found, wanted)[0].passed
        for number, value in enumerate(wanted):
            value[:, 4] = 7 + 1e-6 * (number % 3)  # what another order of sums changes
        assert judged(found, wanted)[0].passed


class TestFewSamplesThatHoldAll:
    def huge(self, error, feeds=16):
        """Values about an offset of 50, one sample a thousand times as large, and errors of all samples alike."""
        wanted = noise(0, feeds)
        wanted[5] = wanted[5] * 1000
        found = [value + np.float32(error) * other for value, other in zip(wanted, noise(1, feeds), strict=True)]
        return [value + 50 for value in found], [value + 50 for value in wanted]

    def test_what_they_hide_is_said(self):
        result, hints = judged(*self.huge(1.0))
        assert result.passed, "the figures are of the one"
        [hint] = hints
        assert "(from 0 on: 5)" in hint
        assert "1 of 16 samples" in hint

    def test_it_is_said_in_any_batches(self):
        found, wanted = (np.concatenate(side) for side in self.huge(1.0))
        assert "(from 0 on: 5)" in judged([found[:7], found[7:]], [wanted[:7], wanted[7:]])[1][0]

    def test_small_noise_on_the_others_is_nothing_to_say(self):
        assert judged(*self.huge(0.01))[1] == ()

    def test_alike_samples_and_few_ones_say_nothing(self):
        assert judged([value * np.float32(1.1) for value in noise(0)], noise(0))[1] == ()
        assert judged(*self.huge(1.0, feeds=6))[1] == ()


class TestEqualValues:
    def share(self, found, wanted):
        values = EqualValues()
        for mine, theirs in zip(found, wanted, strict=True):
            values.add(np.array(mine).ravel(), np.array(theirs).ravel())
        return values.share

    def test_a_background_that_both_have_does_not_count(self):
        wanted = np.zeros(1000, np.int64)
        wanted[:50] = np.arange(50) % 7 + 1
        found = wanted.copy()
        found[:20] = 0  # 20 lost
        found[990:] = 3  # 10 made up
        assert self.share([found], [wanted]) == pytest.approx(30 / 60)
        assert self.share([np.zeros_like(wanted)], [wanted]) == 0

    def test_an_empty_map_is_not_passed(self):
        generator = np.random.default_rng(0)
        maps = [(generator.random((1, 32, 32)) > 0.95).astype(np.int64) for _ in range(4)]
        result, _ = judged([np.zeros_like(each) for each in maps], maps)
        assert result.mean_abs < 0.06
        assert (result.passed, result.agreement) == (False, 0)
        assert judged(maps, maps)[0].passed

    def test_classes_without_a_common_one_are_counted_alike(self):
        wanted = np.arange(100) % 10
        found = wanted.copy()
        found[:5] += 1
        assert self.share([found], [wanted]) == 0.95

    def test_one_difference_is_one_of_all(self):
        """A decision of sixteen that falls otherwise says nothing of the few that are not the common one."""
        wanted = np.array([0] * 12 + [1] * 4)
        found = wanted.copy()
        found[-1] = 0
        assert self.share([found], [wanted]) == 15 / 16

    def test_more_values_than_are_counted(self, monkeypatch):
        monkeypatch.setattr("trtpipe.accuracy.output_metrics.MOST_VALUES", 3)
        wanted = np.concatenate([np.zeros(60, np.int64), np.arange(40)])
        found = np.where(wanted > 35, 0, wanted)
        assert self.share([found], [wanted]) == pytest.approx(35 / 39)

    def test_booleans(self):
        assert self.share([[True, False, False, False]], [[False, True, False, False]]) == 0
