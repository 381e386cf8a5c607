"""The statistics, against enumeration and simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from trtpipe.accuracy.detection import MeanAveragePrecision
from trtpipe.accuracy.meter import Scores
from trtpipe.accuracy.metrics import meter_value
from trtpipe.accuracy.reports import MetricValue
from trtpipe.regression.significance import compare_metric, mcnemar_p


def metric(parts, kind="hits", weights=None, **fields):
    scores = Scores.of(kind, np.asarray(parts, float), weights)
    return MetricValue(
        artifact="lowered",
        runner="CPU",
        metric="m",
        value=scores.value,
        samples=scores.samples,
        scores=scores,
        **fields,
    )


def flipped(hits, regressed, improved=0):
    new = hits.copy()
    new[np.flatnonzero(hits == 1)[:regressed]] = 0
    new[np.flatnonzero(hits == 0)[:improved]] = 1
    return new


HITS = (np.arange(1000) % 10 != 0).astype(float)


@pytest.mark.parametrize(("regressed", "improved"), [(0, 0), (1, 0), (0, 1), (5, 0), (4, 1), (3, 5), (7, 2)])
def test_mcnemar_is_the_share_of_all_coin_tosses(regressed, improved):
    tosses = [sum(toss) for toss in product((0, 1), repeat=regressed + improved)]
    assert mcnemar_p(regressed, improved) == pytest.approx(np.mean([heads >= regressed for heads in tosses]))


def test_mcnemar_with_thousands_of_changes():
    assert mcnemar_p(5000, 5000) == pytest.approx(0.504, abs=1e-3)
    assert 0 < mcnemar_p(5200, 4800) < 1e-3


class TestHits:
    def test_a_tenth_of_a_point_on_a_thousand_samples_is_no_regression(self):
        test = compare_metric(metric(HITS), metric(flipped(HITS, 1)))
        assert not test.significant
        assert test.p == 0.5
        assert test.detectable == pytest.approx(0.005)  # five samples

    def test_what_falls_and_never_rises_is_soon_one(self):
        assert not compare_metric(metric(HITS), metric(flipped(HITS, 4))).significant
        assert compare_metric(metric(HITS), metric(flipped(HITS, 5))).significant

    def test_ups_and_downs_need_more(self):
        assert not compare_metric(metric(HITS), metric(flipped(HITS, 45, 40))).significant
        test = compare_metric(metric(HITS), metric(flipped(HITS, 60, 30)))
        assert test.significant
        assert test.low < 0.03 < test.high
        assert test.detectable == pytest.approx(2.4865 * np.sqrt(90) / 1000, rel=1e-3)

    def test_better_is_never_one(self):
        assert not compare_metric(metric(flipped(HITS, 30)), metric(HITS)).significant

    def test_equal_is_never_one(self):
        assert compare_metric(metric(HITS), metric(HITS)).p == 1

    def test_false_alarms_are_as_rare_as_promised(self):
        generator = np.random.default_rng(0)
        alarms = 0
        for _ in range(400):
            old = (generator.random(300) < 0.8).astype(float)
            swap = generator.random(300) < 0.1
            coin = (generator.random(300) < 0.5).astype(float)
            one, two = np.where(swap, coin, old), np.where(swap, 1 - coin, old)
            alarms += compare_metric(metric(one), metric(two)).significant
        assert alarms <= 400 * 0.05 * 1.6

    def test_the_detectable_loss_is_found_four_times_out_of_five(self):
        generator = np.random.default_rng(1)
        count, discordant = 2000, 0.06
        loss = 2.4865 * np.sqrt(discordant / count)
        found = 0
        for _ in range(300):
            changed = generator.random(count) < discordant
            falls = generator.random(count) < 0.5 + loss / discordant / 2
            old = np.where(changed, falls, 1).astype(float)
            new = np.where(changed, ~falls, 1).astype(float)
            found += compare_metric(metric(old), metric(new)).significant
        assert 0.7 < found / 300 < 0.9


class TestOtherScores:
    @pytest.mark.parametrize(("worse", "better"), [(1, 0), (3, 0), (4, 0), (5, 0), (4, 2), (6, 1), (2, 3), (9, 3)])
    def test_of_0_and_1_it_is_mcnemar(self, worse, better):
        """Also in words of ten letters each: the unit of the scores decides nothing."""
        old, new = HITS, flipped(HITS, worse, better)
        exact = sum(sum(toss) >= worse for toss in product((0, 1), repeat=worse + better)) / 2 ** (worse + better)
        for kind, weights in (("means", None), ("ratio", np.full(1000, 10.0))):
            test = compare_metric(metric(old, kind, weights), metric(new, kind, weights))
            assert test.p == pytest.approx(exact, abs=0 if worse + better <= 10 else 0.02)

    def test_three_images_that_fall_are_no_proof(self):
        """Three coins show the same side one time in eight, whatever share of a thousand samples they are."""
        old = np.random.default_rng(6).random(1000)
        new = old.copy()
        new[:3] -= (0.3, 0.2, 0.4)
        test = compare_metric(metric(old, "means"), metric(new, "means"))
        assert test.p == 1 / 8
        assert test.detectable == pytest.approx(5 * 0.3 / 1000, rel=1e-4)  # five samples that fall as far

    @pytest.mark.parametrize("changed", [4, 8, 30])
    def test_false_alarms_are_as_rare_as_promised(self, changed):
        generator = np.random.default_rng(7)
        alarms = 0
        for _ in range(300):
            old = generator.random(200)
            new = old.copy()
            new[:changed] += generator.normal(0, 0.1, changed)
            alarms += compare_metric(metric(old, "means"), metric(new, "means")).significant
        assert alarms <= 300 * 0.05 * 1.6

    def test_swaps_take_the_weights_along(self):
        """By hand: errors over words 2/4 and 1/1 before, 3/4 and 2/2 now; of four ways to swap, one loses as much."""
        old = metric([2, 1], "ratio", np.array([4.0, 1.0]), lower_is_better=True)  # 3/5
        new = metric([3, 2], "ratio", np.array([4.0, 2.0]), lower_is_better=True)  # 5/6: 0.2333 worse
        # swapped: first 4/6 - 4/5 < 0; second 4/5 - 4/6 = 0.1333; both 3/5 - 5/6 < 0
        assert compare_metric(old, new).p == 1 / 4

    def test_it_finds_a_real_loss_and_no_false_one(self):
        generator = np.random.default_rng(2)
        old = generator.normal(0.7, 0.2, 500)
        noise = generator.normal(0, 0.02, 500)
        assert compare_metric(metric(old, "means"), metric(old - 0.005 + noise, "means")).significant
        assert not compare_metric(metric(old, "means"), metric(old + noise - noise.mean(), "means")).significant
        assert not compare_metric(metric(old, "means"), metric(old + 0.005 + noise, "means")).significant

    def test_the_same_data_give_the_same_answer(self):
        generator = np.random.default_rng(3)
        old, new = generator.random(100), generator.random(100)
        assert compare_metric(metric(old, "means"), metric(new, "means")) == compare_metric(
            metric(old, "means"), metric(new, "means")
        )

    def test_for_error_rates_more_is_worse(self):
        words = np.full(200, 10.0)
        old, new = np.ones(200), np.ones(200)
        new[:20] = 3
        worse = compare_metric(
            metric(old, "ratio", words, lower_is_better=True), metric(new, "ratio", words, lower_is_better=True)
        )
        assert worse.significant
        assert worse.low < 0.02 < worse.high
        assert not compare_metric(
            metric(new, "ratio", words, lower_is_better=True), metric(old, "ratio", words, lower_is_better=True)
        ).significant

    def test_equal_scores(self):
        old = np.random.default_rng(4).random(50)
        assert compare_metric(metric(old, "means"), metric(old, "means")).p == 1


class TestWithoutScores:
    def value(self, value, samples, **fields):
        return MetricValue(artifact="lowered", runner="CPU", metric="m", value=value, samples=samples, **fields)

    def test_a_share_and_its_count_give_a_coarse_test(self):
        test = compare_metric(self.value(0.9, 1000), self.value(0.899, 1000))
        assert not test.significant
        assert test.detectable == pytest.approx(2.4865 * np.sqrt(2 * 0.09 / 1000), rel=0.01)
        assert compare_metric(self.value(0.9, 1000), self.value(0.85, 1000)).significant

    @pytest.mark.parametrize(("old", "samples"), [(0.9, 0), (41.0, 100)])
    def test_otherwise_nothing_can_be_tested(self, old, samples):
        test = compare_metric(self.value(old, samples), self.value(old / 2, samples))
        assert (test.p, test.significant, test.detectable) == (None, False, None)


class TestDetections:
    def scores(self, shifts):
        """Of one object in each image, found so many pixels beside it."""
        meter = MeanAveragePrecision("")
        rows = [[[shift, 0, 10 + shift, 10, 0.5 + index / 200, 0]] for index, shift in enumerate(shifts)]
        labels = np.tile(np.array([[[0, 0, 0, 10, 10]]], np.float32), (len(shifts), 1, 1))
        meter.update({"found": np.array(rows, np.float32)}, {}, labels)
        return meter_value("lowered", "CPU", meter)

    def test_images_are_paired(self):
        before, after = (self.scores(np.arange(60) % 4 + (np.arange(60) < moved)) for moved in (0, 6))
        test = compare_metric(before, after)
        assert test.name == "paired randomization, 6 regressed, 0 improved of 60"
        assert test.p == 0.5**6
        loss = np.mean(before.scores.arrays()[0] - after.scores.arrays()[0])
        assert test.low < loss < test.high
        blind = [each.model_copy(update={"scores": None}) for each in (before, after)]
        assert not compare_metric(*blind).significant, "two proportions do not see it"
