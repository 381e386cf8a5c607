"""Outputs whose rows come in any order, and positions that do not count: declared, and detected."""

from __future__ import annotations

import numpy as np
import pytest

from trtpipe.accuracy.alignment import aligned, counted
from trtpipe.accuracy.comparison import OutputComparison
from trtpipe.config.formats import Precision
from trtpipe.config.profile import Tolerance
from trtpipe.errors import InputError

FP16 = Precision("fp16")


def detections(seed: int = 0, rows: int = 40) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "boxes": generator.uniform(0, 640, (2, rows, 4)).astype(np.float32),
        "scores": generator.uniform(size=(2, rows)).astype(np.float32),
        "classes": generator.integers(0, 9, (2, rows)),
    }


def shuffled(outputs: dict[str, np.ndarray], noise: float = 0.0, seed: int = 1) -> dict[str, np.ndarray]:
    """Every sample's rows in an order of their own, the same for all outputs."""
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(outputs["scores"].shape[1]) for _ in range(2)]
    result = {}
    for name, value in outputs.items():
        moved = np.stack([value[sample][orders[sample]] for sample in range(2)])
        if value.dtype.kind == "f":
            moved = (moved * (1 + noise * generator.standard_normal(moved.shape))).astype(value.dtype)
        result[name] = moved
    return result


def judged(pairs, feeds=None, precision=FP16, **tolerance):
    """Output -> whether it is within tolerance; and what was detected."""
    comparison = OutputComparison(Tolerance.model_validate(tolerance), precision)
    for index, (found, wanted) in enumerate(pairs):
        comparison.add(found, wanted, None if feeds is None else feeds[index])
    return {result.output: result.passed for result in comparison.results()}, comparison.hints


class TestUnordered:
    NAMES = ("boxes", "scores", "classes")

    def test_rows_move_together(self):
        wanted = detections()
        found = shuffled(wanted, noise=1e-4)
        moved = aligned(found, wanted, self.NAMES)
        for name in self.NAMES:
            np.testing.assert_allclose(moved[name], wanted[name], rtol=1e-3)
        assert moved["boxes"].dtype == np.float32

    def test_nothing_else_moves(self):
        wanted = detections()
        found = shuffled(wanted)
        moved = aligned(found, wanted, ["boxes"])
        np.testing.assert_array_equal(moved["scores"], found["scores"])
        np.testing.assert_array_equal(moved["boxes"], wanted["boxes"])

    def test_declared_it_passes_and_undeclared_it_fails_by_name(self):
        pairs = [(shuffled(detections(seed), 1e-5, seed), detections(seed)) for seed in range(4)]
        passed, hints = judged(pairs, unordered=self.NAMES)
        assert all(passed.values())
        assert hints == ()
        passed, hints = judged(pairs)
        assert not passed["boxes"]
        assert any("'boxes' has the same values in another order" in hint for hint in hints)
        assert any('unordered = ["scores"]' in hint for hint in hints)

    def test_wrong_rows_fail_although_their_order_does_not_count(self):
        pairs = [(detections(seed + 50), detections(seed)) for seed in range(4)]
        passed, hints = judged(pairs, unordered=self.NAMES)
        assert not passed["boxes"]
        passed, hints = judged(pairs)
        assert not passed["boxes"]
        assert hints == (), "they are other values"

    def test_a_score_on_another_row_is_no_order(self):
        """Boxes as they were, scores among themselves: as sets of rows they differ."""
        wanted = detections()
        found = {**wanted, "scores": shuffled(wanted)["scores"]}
        passed, _ = judged([(found, wanted)] * 3, unordered=("boxes", "scores"))
        assert not all(passed.values())

    def test_equal_rows(self):
        wanted = {"y": np.ones((1, 5, 2), np.float32)}
        np.testing.assert_array_equal(aligned(wanted, wanted, ["y"])["y"], wanted["y"])

    @pytest.mark.parametrize("shape", [(4,), (1, 5000, 1)])
    def test_what_cannot_be_matched(self, shape):
        value = {"y": np.zeros(shape, np.float32)}
        with pytest.raises(InputError, match="unordered: output 'y' has shape"):
            aligned(value, value, ["y"])

    def test_a_classifier_with_noise_is_not_taken_for_an_order(self):
        generator = np.random.default_rng(0)
        pairs = []
        for _ in range(4):
            wanted = generator.standard_normal((8, 1000)).astype(np.float32)
            pairs.append(
                ({"y": wanted + 0.5 * generator.standard_normal(wanted.shape).astype(np.float32)}, {"y": wanted})
            )
        passed, hints = judged(pairs)
        assert not passed["y"]
        assert hints == ()


class TestIgnore:
    def padded(self, seed: int, damage: float = 0.0):
        """Feed, found, wanted: noise behind the length of each row."""
        generator = np.random.default_rng(seed)
        mask = (np.arange(12)[None] < generator.integers(3, 12, (4, 1))).astype(np.int64)
        wanted = generator.standard_normal((4, 12, 6)).astype(np.float32)
        garbage = generator.standard_normal(wanted.shape) * (mask == 0)[..., None]
        broken = damage * generator.standard_normal(wanted.shape)
        return {"ids": mask * 7 + 1, "mask": mask}, (wanted + garbage + broken).astype(np.float32), wanted

    def outcome(self, damage=0.0, **tolerance):
        made = [self.padded(seed, damage) for seed in range(4)]
        return judged([({"y": found}, {"y": wanted}) for _, found, wanted in made], [m[0] for m in made], **tolerance)

    def test_declared_it_passes_and_undeclared_it_fails_by_name(self):
        assert self.outcome(ignore={"y": "mask"}) == ({"y": True}, ())
        passed, hints = self.outcome()
        assert not passed["y"]
        assert len(hints) == 1
        assert "'y' differs only where input 'mask' is 0" in hints[0]

    def test_an_error_elsewhere_fails_and_is_not_called_padding(self):
        assert not self.outcome(damage=0.5, ignore={"y": "mask"})[0]["y"]
        passed, hints = self.outcome(damage=0.5)
        assert not passed["y"]
        assert hints == ()

    def test_by_the_value_of_the_reference(self):
        generator = np.random.default_rng(0)
        wanted = generator.standard_normal((4, 8)).astype(np.float32)
        wanted[:, 5:] = -100
        found = wanted + np.where(wanted == -100, generator.standard_normal(wanted.shape), 0).astype(np.float32) * 90
        assert judged([({"y": found}, {"y": wanted})], ignore={"y": -100})[0]["y"]
        assert not judged([({"y": found}, {"y": wanted})])[0]["y"]

    def test_integers(self):
        wanted = np.arange(24).reshape(4, 6)
        mask = np.array([[1, 1, 1, 0, 0, 0]] * 4)
        found = np.where(mask == 0, 99, wanted)
        pairs, feeds = [({"y": found}, {"y": wanted})], [{"mask": mask}]
        assert judged(pairs, feeds, Precision("fp32"), ignore={"y": "mask"})[0]["y"]
        assert not judged(pairs, feeds, Precision("fp32"))[0]["y"]

    def test_a_mask_that_is_not_there_or_does_not_fit(self):
        value = {"y": np.zeros((2, 3), np.float32)}
        with pytest.raises(InputError, match="ignore: y: there is no input or output 'mask'"):
            counted(value, value, {"y": "mask"}, {})
        with pytest.raises(InputError, match=r"'mask' has shape \[3\], the output \[2, 3\]"):
            counted(value, value, {"y": "mask"}, {"mask": np.ones(3)})
