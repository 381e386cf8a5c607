"""Figures of parity, against numpy over all elements at once."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trtpipe.accuracy import comparison, departures
from trtpipe.accuracy.metrics import TopK
from trtpipe.accuracy.parity import Contender, compare
from trtpipe.config.formats import Precision
from trtpipe.config.profile import OutputTolerance, Tolerance
from trtpipe.data.sample import Sample
from trtpipe.errors import InputError, StageError
from trtpipe.progress import NullProgress

LOOSE = Tolerance(atol=1e9, rtol=0, stat="max", min_cosine=-1, min_snr_db=-1e9)


class Replay:
    """A runner that returns the arrays it was given, one set a feed."""

    device = "replay"
    inputs = outputs = ()

    def __init__(self, *answers):
        self._answers = iter(answers)

    def infer(self, feed):
        return next(self._answers)


class Data:
    """As many samples as asked for, with labels if there are any."""

    name = "test data"

    def __init__(self, count, labels=None, rows=1):
        self.size = count
        self._labels = labels
        self._rows = rows

    def __iter__(self):
        for index in range(self.size):
            yield Sample({"x": np.zeros((self._rows, 1))}, None if self._labels is None else self._labels[index])


def compared(wanted, found, tolerance=LOOSE, precision="fp32", **options):
    """The comparison of one contender's feeds with the reference's, by output name."""
    run = compare(
        Contender("model", Replay(*wanted), Precision.fp32),
        [Contender("lowered", Replay(*found), Precision(precision))],
        Data(len(wanted)),
        tolerance,
        None,
        NullProgress(),
        **options,
    )
    [comparison] = run.comparisons
    return {output.output: output for output in comparison.outputs}


def arrays(seed, feeds=5, rows=3, noise=0.1):
    generator = np.random.default_rng(seed)
    wanted = [generator.normal(size=(rows, 7)).astype(np.float32) for _ in range(feeds)]
    return wanted, [w + noise * generator.normal(size=w.shape).astype(np.float32) for w in wanted]


def one(values):
    return [{"y": value} for value in values]


class TestFigures:
    def test_they_are_numpys(self):
        wanted, found = arrays(0)
        result = compared(one(wanted), one(found))["y"]
        w, f = np.concatenate(wanted).astype(np.float64), np.concatenate(found).astype(np.float64)
        gap = np.abs(f - w)
        assert result.max_abs == pytest.approx(gap.max(), rel=1e-5)
        assert result.mean_abs == pytest.approx(gap.mean(), rel=1e-5)
        assert result.median_abs == pytest.approx(np.median(gap), rel=1e-5)
        assert result.max_rel == pytest.approx((gap / np.abs(w)).max(), rel=1e-4)
        assert result.mean_rel == pytest.approx((gap / np.abs(w)).mean(), rel=1e-4)
        assert result.scale == pytest.approx(np.abs(w).mean(), rel=1e-5)
        apart, other = w - w.mean(axis=0), f - w.mean(axis=0)
        cosine = (apart * other).sum() / np.sqrt((apart * apart).sum() * (other * other).sum())
        assert result.cosine == pytest.approx(cosine, rel=1e-5)
        assert result.snr_db == pytest.approx(
            10 * np.log10(w.var(axis=0, ddof=1).mean() / (gap * gap).mean()), rel=1e-5
        )
        assert result.spread == pytest.approx(np.sqrt(w.var(axis=0, ddof=1).mean()), rel=1e-5)
        assert result.about_mean
        assert result.worst_feed == int(np.argmax([np.abs(a - b).max() for a, b in zip(wanted, found, strict=True)]))

    def test_chunks_change_no_mean_and_no_extreme(self, monkeypatch):
        wanted, found = arrays(1, feeds=7)
        whole = compared(one(wanted), one(found))["y"]
        for feeds, elements in ((1, 10**9), (3, 10**9), (64, 21), (64, 1)):
            monkeypatch.setattr(comparison, "_CHUNK_FEEDS", feeds)
            monkeypatch.setattr(comparison, "_CHUNK_ELEMENTS", elements)
            parts = compared(one(wanted), one(found))["y"]
            for name in ("max_abs", "max_rel", "mean_abs", "mean_rel", "scale", "snr_db", "cosine", "spread"):
                assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-5), name
            assert parts.worst_feed == whole.worst_feed

    def test_feeds_of_different_sizes_weigh_by_their_elements(self, monkeypatch):
        monkeypatch.setattr(comparison, "_CHUNK_FEEDS", 1)
        wanted = [np.zeros((1, 10), np.float32), np.zeros((9, 10), np.float32)]
        found = [np.full((1, 10), 10, np.float32), np.zeros((9, 10), np.float32)]
        assert compared(one(wanted), one(found))["y"].mean_abs == pytest.approx(1.0)

    def test_equal_outputs(self):
        wanted, _ = arrays(2)
        result = compared(one(wanted), one(wanted), Tolerance(atol=0, rtol=0, stat="elemwise", min_cosine=0.99999))["y"]
        assert (result.max_abs, result.mean_abs, result.snr_db) == (0, 0, math.inf)
        assert result.cosine == pytest.approx(1)
        assert result.passed

    def test_every_output_on_its_own(self):
        wanted = [{"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)}]
        found = [{"b": np.ones(3, np.float32), "a": np.full(3, 2, np.float32)}]
        result = compared(wanted, found)
        assert list(result) == ["a", "b"]
        assert (result["a"].max_abs, result["b"].max_abs) == (1, 0)

    def test_half_outputs_are_compared_in_float32(self):
        wanted, found = [np.full((1, 4), 60000, np.float32)], [np.full((1, 4), 59000, np.float16)]
        assert compared(one(wanted), one(found))["y"].max_abs == 60000 - np.float32(np.float16(59000))

    def test_scalars_and_empty_outputs(self):
        result = compared(
            [{"s": np.float32(1).reshape(()), "e": np.zeros((0, 4), np.float32)}] * 2,
            [{"s": np.float32(3).reshape(()), "e": np.zeros((0, 4), np.float32)}] * 2,
        )
        assert result["s"].max_abs == 2
        assert (result["e"].max_abs, result["e"].cosine, result["e"].passed) == (0, 1, True)


class TestOddValues:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_one_bad_value_among_good_ones_never_passes(self, bad):
        wanted, found = arrays(3, noise=0)
        found[2] = found[2].copy()
        found[2][1, 4] = bad
        result = compared(one(wanted), one(found), Tolerance(atol=1e9, rtol=1e9, stat="mean", min_cosine=-1))["y"]
        assert not result.passed
        assert not math.isfinite(result.max_abs)
        assert result.worst_feed == 2

    @pytest.mark.parametrize("chunk", [1, 64])
    def test_bad_early_is_bad_at_the_end(self, monkeypatch, chunk):
        monkeypatch.setattr(comparison, "_CHUNK_FEEDS", chunk)
        wanted, found = arrays(4, noise=0)
        found[0] = np.full_like(found[0], np.nan)
        result = compared(one(wanted), one(found))["y"]
        assert math.isnan(result.max_abs)
        assert not result.passed

    def test_equal_infinities_are_equal(self):
        wanted = [np.array([[np.inf, -np.inf, 1, 2]], np.float32)]
        result = compared(one(wanted), one(wanted), Tolerance(atol=0, rtol=0, stat="elemwise", min_cosine=-1))["y"]
        assert result.max_abs == 0

    def test_infinities_of_different_signs_are_not(self):
        wanted = [np.array([[np.inf, 1, 2]], np.float32)]
        found = [np.array([[-np.inf, 1, 2]], np.float32)]
        assert not compared(one(wanted), one(found), Tolerance(atol=1e9, stat="max", min_cosine=-1))["y"].passed

    def test_zeros_everywhere(self):
        zeros = [np.zeros((2, 3), np.float32)]
        result = compared(one(zeros), one(zeros), Tolerance())["y"]
        assert result.max_abs == 0
        assert result.passed

    def test_all_wrong_where_the_reference_is_zero(self):
        zeros = [np.zeros((2, 3), np.float32)]
        result = compared(one(zeros), one([np.ones((2, 3), np.float32)]), Tolerance())["y"]
        assert result.snr_db == -math.inf
        assert not result.passed


class TestIntegers:
    def test_the_share_that_differs_is_what_counts(self):
        wanted = [np.array([[1, 2, 3, 4]], np.int64), np.array([[5, 6, 7, 8]], np.int64)]
        found = [np.array([[1, 2, 3, 900]], np.int64), np.array([[5, 6, 7, 8]], np.int64)]
        result = compared(one(wanted), one(found), Tolerance(min_agreement=7 / 8))["y"]
        assert (result.max_abs, result.mean_abs, result.cosine, result.agreement) == (1, 1 / 8, None, 7 / 8)
        assert (result.worst_feed, result.worst_index) == (0, (0, 3))
        assert result.passed
        assert not compared(one(wanted), one(found), Tolerance(min_agreement=0.876))["y"].passed

    def test_no_distance_excuses_them(self):
        """Seven classes off is as wrong as one."""
        wanted, found = [np.array([1, 2])], [np.array([8, 3])]
        assert not compared(one(wanted), one(found), Tolerance(atol=1e9, rtol=1e9, min_cosine=-1), "int8")["y"].passed

    @pytest.mark.parametrize(
        ("precision", "wrong", "passed"),
        [
            ("fp32", 1, True), ("fp32", 2, False), ("fp16", 20, True), ("fp16", 21, False), ("bf16", 50, True),
            ("bf16", 51, False), ("int8", 100, True), ("int8", 101, False), ("fp8", 101, False), ("best", 101, False),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("dtype", [np.bool_, np.int64])
    def test_each_precision_has_a_share_that_may_differ(self, precision, wrong, passed, dtype):
        """Of 1000 values, in a model that gives nothing else: what nothing judges would pass."""
        wanted = (np.arange(1000) % 2).astype(dtype)
        found = np.where(np.arange(1000) < wrong, 1 - np.arange(1000) % 2, wanted).astype(dtype)
        assert compared(one([wanted]), one([found]), Tolerance(), precision)["y"].passed is passed

    def test_an_output_can_have_its_own_share(self):
        wanted = [{"a": np.zeros(4, np.int32), "b": np.zeros(4, np.int32)}]
        found = [{"a": np.array([0, 0, 0, 1], np.int32), "b": np.array([0, 0, 0, 1], np.int32)}]
        own = Tolerance(outputs={"b": OutputTolerance(min_agreement=0.5)})
        result = compared(wanted, found, own, "int8")
        assert (result["a"].passed, result["b"].passed) == (False, True)

    @pytest.mark.parametrize(
        ("tolerance", "precision", "passed"),
        [
            (Tolerance(), "int8", True),
            (Tolerance(), "fp32", False),
            (Tolerance(min_agreement=0.5), "int8", False),
            (Tolerance(outputs={"best": OutputTolerance(atol=1)}), "int8", False),
        ],
    )
    def test_beside_floats_they_are_judged_in_float32_or_where_that_is_asked(self, tolerance, precision, passed):
        """The tail of a top-k changes places at the slightest rounding."""
        scores = np.ones(4, np.float32)
        wanted, found = ({"scores": scores, "best": np.arange(4) + step} for step in (0, 1))
        result = compared([wanted], [found], tolerance, precision)
        assert result["best"].agreement == 0
        assert (result["scores"].passed, result["best"].passed) == (True, passed)

    def test_floats_have_no_share(self):
        assert compared(one([np.ones(2, np.float32)]), one([np.ones(2, np.float32)]))["y"].agreement is None

    @pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.uint64])
    def test_of_any_kind(self, dtype):
        wanted, found = [np.array([0, 1, 1], dtype)], [np.array([1, 1, 1], dtype)]
        assert compared(one(wanted), one(found))["y"].mean_abs == pytest.approx(1 / 3)

    def test_large_ones_do_not_lose_their_last_digit(self):
        wanted, found = [np.array([2**60], np.int64)], [np.array([2**60 + 1], np.int64)]
        assert compared(one(wanted), one(found))["y"].max_abs == 1


def sines(offset=0.0, noise=0.0, rows=200, seed=5):
    """float32[rows, 8] that spread by 0.4 about 8 means, and the same with noise of ``noise`` rms."""
    generator = np.random.default_rng(seed)
    wanted = offset + 0.4 * generator.normal(size=(rows, 8)) + generator.normal(size=8)
    found = wanted + noise * generator.normal(size=(rows, 8))
    return wanted.astype(np.float32), found.astype(np.float32)


class TestWhatTheInputChanges:
    @pytest.mark.parametrize("offset", [0, 290, -5000])
    @pytest.mark.parametrize(("noise", "passed"), [(0.54, False), (0.2, False), (0.01, True)])
    def test_an_offset_changes_no_verdict(self, offset, noise, passed):
        """-2.6 dB, 6 dB and 32 dB; beside an offset of 290 all of them would be more than 54 dB."""
        wanted, found = sines(offset, noise)
        result = compared(one([wanted]), one([found]), Tolerance(), "int8")["y"]
        assert result.snr_db == pytest.approx(20 * np.log10(0.4 / noise), abs=0.3)
        assert result.passed is passed
        assert ("snr" in result.broken) is not passed

    def test_nor_does_an_offset_of_each_position(self):
        wanted, found = sines(noise=0.54)
        ramp = np.linspace(-300, 300, 8, dtype=np.float32)
        results = [
            compared(one([w]), one([f]), Tolerance(), "int8")["y"]
            for w, f in ((wanted, found), (wanted + ramp, found + ramp))
        ]
        assert results[1].snr_db == pytest.approx(results[0].snr_db, abs=0.01)
        assert results[1].cosine == pytest.approx(results[0].cosine, abs=0.001)

    def test_samples_may_come_in_any_batches(self):
        wanted, found = sines(290, 0.1, rows=24)
        whole = compared(one([wanted]), one([found]))["y"]
        for parts in ([1] * 24, [5, 19], [1, 22, 1]):
            cuts = np.cumsum(parts)[:-1]
            split = compared(one(np.split(wanted, cuts)), one(np.split(found, cuts)))["y"]
            assert split.snr_db == pytest.approx(whole.snr_db, rel=1e-6)
            assert split.cosine == pytest.approx(whole.cosine, rel=1e-6)

    def test_lengths_that_change_leave_a_mean_for_each_channel(self):
        """[1, length, 3] with channels about 0, 100 and -50."""
        generator = np.random.default_rng(0)
        level = np.array([0, 100, -50])
        wanted = [(level + generator.normal(size=(1, n, 3))).astype(np.float32) for n in (40, 7, 90, 40)]
        found = [(w + 0.5 * generator.normal(size=w.shape)).astype(np.float32) for w in wanted]
        assert compared(one(wanted), one(found))["y"].snr_db == pytest.approx(6.0, abs=0.8)

    def test_a_lost_region_of_a_sparse_map_is_not_hidden_by_the_background(self):
        """Maps of 0.7 % ones in other places each time: without a third of them the mean error is 0.002."""
        generator = np.random.default_rng(0)
        wanted = (generator.random((20, 1, 64, 64)) < 0.007).astype(np.float32)
        found = wanted * (generator.random(wanted.shape) > 1 / 3)
        result = compared(one([wanted]), one([found.astype(np.float32)]), Tolerance(), "int8")["y"]
        assert result.mean_abs < 0.003
        assert result.snr_db == pytest.approx(10 * np.log10(3), abs=0.6)
        assert not result.passed

    def test_an_output_that_no_sample_changes_is_judged_as_it_is(self):
        wanted = np.tile(np.arange(6, dtype=np.float32), (9, 1))
        result = compared(one([wanted]), one([wanted * np.float32(1.001)]), Tolerance(), "int8")["y"]
        assert (result.about_mean, result.passed) == (False, True)
        assert result.snr_db == pytest.approx(60, abs=0.1)

    def test_random_inputs_say_nothing_of_what_real_ones_change(self):
        wanted, found = sines(290, 0.54)
        result = compared(one([wanted]), one([found]), Tolerance(), "int8", real=False)["y"]
        assert (result.about_mean, result.passed) == (False, True)

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_the_scale_of_an_output_changes_no_verdict_in_float32(self, scale):
        """Rounding of single values near 0, which elementwise tolerances would hold against it."""
        wanted, _ = sines(rows=400)
        noise = 2e-5 * np.random.default_rng(1).normal(size=wanted.shape)
        right, wrong = (((wanted + times * noise) * scale).astype(np.float32) for times in (1, 1000))
        wanted = (wanted * scale).astype(np.float32)
        assert compared(one([wanted]), one([right]), Tolerance())["y"].passed
        assert not compared(one([wanted]), one([wrong]), Tolerance())["y"].passed

    def test_rounding_of_float32_beside_a_large_offset_is_no_error(self):
        wanted, found = sines(1e6)
        assert compared(one([wanted]), one([np.nextafter(found, np.float32(np.inf))]), Tolerance())["y"].passed

    def test_large_outputs_take_bounded_memory(self, monkeypatch):
        monkeypatch.setattr(departures, "MOST_MEANS", 100)
        generator = np.random.default_rng(0)
        wanted = generator.normal(size=(4, 3, 20, 50)).astype(np.float32) + np.float32([[[[9]], [[-9]], [[70]]]])
        found = (wanted + 0.1 * generator.normal(size=wanted.shape)).astype(np.float32)
        assert departures._kept(wanted.shape) == (1, 3, 20, 1)
        assert compared(one([wanted]), one([found]))["y"].snr_db == pytest.approx(20, abs=0.3)

    def test_the_mean_of_so_few_samples_is_made_up_for(self):
        """Two samples differ from their own mean by half of what they differ from the true one."""
        figures = [
            compared(one([w]), one([f]))["y"].snr_db for w, f in (sines(0, 0.1, rows=2, seed=s) for s in range(60))
        ]
        assert np.mean(10 ** (np.array(figures) / 10)) == pytest.approx(16, rel=0.25)


class TestTolerance:
    """|x - reference| = 1 everywhere but in one place, where it is 5; |reference| = 10 everywhere but there: 100.

    The sample is random, so that errors are beside magnitudes.
    """

    wanted = [np.array([[10, 10, 10, 100]], np.float32)]
    found = [np.array([[11, 9, 11, 105]], np.float32)]

    def passes(self, precision="fp32", real=False, **fields) -> bool:
        return compared(one(self.wanted), one(self.found), Tolerance(**fields), precision, real=real)["y"].passed

    @pytest.mark.parametrize(
        ("stat", "atol", "rtol", "expected"),
        [
            ("elemwise", 5.0, 0.0, True),
            ("elemwise", 4.99, 0.0, False),
            ("elemwise", 0.0, 0.1, True),  # 1 <= 0.1 * 10 and 5 <= 0.1 * 100
            ("elemwise", 0.0, 0.099, False),
            ("elemwise", 1.0, 0.05, True),  # 1 <= 1 and 5 <= 0.05 * 100
            ("elemwise", 0.5, 0.05, False),  # 1 is within neither: the two are not added up
            ("max", 5.0, 0.0, True),
            ("max", 4.99, 0.0, False),
            ("max", 0.0, 0.05, True),  # of the largest magnitude, 100
            ("max", 0.0, 0.049, False),
            ("mean", 2.0, 0.0, True),  # (1 + 1 + 1 + 5) / 4
            ("mean", 1.99, 0.0, False),
            ("mean", 0.0, 0.0616, True),  # of the mean magnitude, 32.5
            ("mean", 0.0, 0.0615, False),
            ("median", 1.0, 0.0, True),
            ("median", 0.99, 0.0, False),
            ("median", 0.0, 0.1, True),
            ("median", 0.0, 0.099, False),
        ],
    )
    def test_each_statistic(self, stat, atol, rtol, expected):
        assert self.passes(stat=stat, atol=atol, rtol=rtol, min_cosine=-1, min_snr_db=-99) is expected

    @pytest.mark.parametrize(
        ("stat", "least"),
        [
            ("max", 5 / 67.5),  # of the largest distance from the mean of the elements, 32.5
            ("mean", 2 / 45),  # of the standard deviation of the elements
            ("median", 1 / 45),
        ],
    )
    def test_of_one_real_sample(self, stat, least):
        limits = {"stat": stat, "atol": 0, "min_cosine": -1, "min_snr_db": -99}
        assert self.passes(real=True, rtol=1.001 * least, **limits)
        assert not self.passes(real=True, rtol=0.999 * least, **limits)

    def test_cosine(self):
        w, f = self.wanted[0].astype(float), self.found[0].astype(float)
        cosine = (w * f).sum() / np.sqrt((w * w).sum() * (f * f).sum())
        assert self.passes(stat="max", atol=9, rtol=0, min_cosine=cosine - 1e-5, min_snr_db=0)
        assert not self.passes(stat="max", atol=9, rtol=0, min_cosine=cosine + 1e-5, min_snr_db=0)

    def test_the_precision_fills_what_is_left_open(self):
        result = compared(one(self.wanted), one(self.found), Tolerance(atol=50), "int8")["y"]
        assert result.tolerance.stat == "mean"
        assert result.tolerance.atol == 50
        assert result.passed
        assert not compared(one(self.wanted), one(self.found), Tolerance(), "fp32")["y"].passed

    def test_an_output_can_have_its_own(self):
        wanted = [{"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}]
        found = [{"a": np.full(2, 2, np.float32), "b": np.full(2, 2, np.float32)}]
        own = Tolerance(
            atol=0, rtol=0, stat="max", min_cosine=-1, min_snr_db=-99, outputs={"b": OutputTolerance(atol=1)}
        )
        result = compared(wanted, found, own)
        assert (result["a"].passed, result["b"].passed) == (False, True)


class TestRun:
    def test_several_contenders_see_the_same_feeds_and_metrics_are_kept_apart(self):
        eye = np.eye(3, dtype=np.float32)
        labels = [np.array([0, 1, 2]), np.array([0, 1, 1])]
        run = compare(
            Contender("model", Replay(*one([eye, eye])), Precision.fp32),
            [
                Contender("simplified", Replay(*one([eye, eye])), Precision.fp32),
                Contender("lowered", Replay(*one([eye, eye[::-1]])), Precision.int8, note="16 bits emulated"),
            ],
            Data(2, labels, rows=3),
            LOOSE,
            lambda: TopK("top1", ""),
            NullProgress(),
        )
        assert (run.feeds, run.samples) == (2, 6)
        assert [(c.artifact, c.runner) for c in run.comparisons] == [
            ("simplified", "replay"),
            ("lowered", "replay, 16 bits emulated"),
        ]
        assert [(m.artifact, m.value, m.samples) for m in run.metrics] == [
            ("model", pytest.approx(5 / 6), 6),
            ("simplified", pytest.approx(5 / 6), 6),
            ("lowered", pytest.approx(4 / 6), 6),
        ]
        assert [c.passed for c in run.comparisons] == [True, True]

    def test_without_labels_there_is_no_value(self):
        run = compare(
            Contender("model", Replay(*one([np.eye(2, dtype=np.float32)])), Precision.fp32),
            [],
            Data(1),
            LOOSE,
            None,
            NullProgress(),
        )
        assert (run.comparisons, run.metrics) == ((), ())

    def test_outputs_of_different_shapes(self):
        with pytest.raises(StageError, match=r"output 'y' has shape \[2, 3\], the reference's has \[3, 2\]"):
            compared(one([np.zeros((3, 2), np.float32)]), one([np.zeros((2, 3), np.float32)]))

    def test_a_label_that_is_no_class_stops_the_run(self):
        with pytest.raises(InputError, match="label 7 does not fit"):
            compare(
                Contender("model", Replay(*one([np.eye(2, dtype=np.float32)])), Precision.fp32),
                [],
                Data(1, [np.array([0, 7])], rows=2),
                LOOSE,
                lambda: TopK("top1", ""),
                NullProgress(),
            )

    def test_progress_counts_feeds(self):
        calls = []

        class Listener(NullProgress):
            def advance(self, phase, done, total):
                calls.append((phase, done, total))

        values = one([np.zeros(1, np.float32)] * 3)
        compare(Contender("model", Replay(*values), Precision.fp32), [], Data(3), LOOSE, None, Listener())
        assert calls == [("verify", done, 3) for done in range(4)]
