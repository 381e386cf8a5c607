from __future__ import annotations

import base64
import tracemalloc
import zlib

import numpy as np
import pytest
from pydantic import ValidationError

from trtpipe.accuracy.meter import MOST_SAMPLES, Scores
from trtpipe.errors import InputError


def test_hits_come_back_and_their_mean_is_the_metric():
    hits = np.array([1, 0, 1, 1], bool)
    scores = Scores.of("hits", hits)
    parts, weights = Scores.model_validate_json(scores.model_dump_json()).arrays()
    assert (parts.tolist(), weights.tolist(), scores.value) == ([1, 0, 1, 1], [1, 1, 1, 1], 0.75)


def test_a_ratio_is_of_sums_not_of_samples():
    assert Scores.of("ratio", np.array([1, 1]), np.array([1, 9])).value == pytest.approx(0.2)


def test_a_metric_that_is_no_mean_keeps_its_own_value():
    assert Scores.of("means", np.array([0.0, 1.0]), whole=0.3).value == 0.3


def test_without_samples_there_is_no_value():
    assert Scores.of("hits", np.zeros(0)).value == 0


def test_fifty_thousand_hits_take_a_few_kilobytes():
    hits = np.random.default_rng(0).random(50_000) < 0.76
    assert len(Scores.of("hits", hits).parts) < 25_000


@pytest.mark.parametrize("parts", ["not base64!", "aGVsbG8=", ""])
def test_damage_is_told(parts):
    with pytest.raises(InputError, match="damaged"):
        Scores.of("hits", np.ones(3)).model_copy(update={"parts": parts}).arrays()
    with pytest.raises(InputError, match="3 scores for 4 samples"):
        Scores.of("hits", np.ones(3)).model_copy(update={"samples": 4}).arrays()


def test_no_more_is_unpacked_than_there_are_samples():
    """A hundred megabytes of zeros in a hundred kilobytes of text."""
    packed = base64.b64encode(zlib.compress(bytes(100 << 20), 9)).decode()
    bomb = Scores.of("hits", np.ones(3)).model_copy(update={"parts": packed})
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="more than 3 scores"):
            bomb.arrays()
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_record_holds_so_many_samples_and_no_more():
    with pytest.raises(InputError, match="the most"):
        Scores.of("hits", np.broadcast_to(np.float32(0), MOST_SAMPLES + 1))
    with pytest.raises(ValidationError, match="samples"):
        Scores(kind="hits", samples=MOST_SAMPLES + 1, parts="")
