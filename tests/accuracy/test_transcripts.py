from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe.accuracy.transcripts import WordErrorRate, edit_distance
from trtpipe.errors import InputError

words = st.lists(st.integers(0, 3), max_size=5)


def recursive(a: list[int], b: list[int]) -> int:
    """The definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(recursive(a[1:], b) + 1, recursive(a, b[1:]) + 1, recursive(a[1:], b[1:]) + (a[0] != b[0]))


@given(a=words, b=words)
def test_edit_distance_is_what_its_definition_says(a, b):
    assert edit_distance(a, b) == recursive(a, b)


def test_errors_over_words_not_the_mean_of_rates():
    meter = WordErrorRate("")
    meter.update({"ids": np.array([[1, 2, 3, -1], [7, 8, 9, 6]])}, {}, np.array([[1, 2, -1, -1], [7, 8, 9, 6]]))
    assert meter.scores().value == pytest.approx(1 / 6)
    assert meter.lower_is_better


def test_scores_are_read_as_ctc():
    steps = [0, 1, 1, 0, 1, 2, 2, 0]  # blank 1 1 blank 1 2 2 blank -> 1 1 2
    scores = np.eye(3, dtype=np.float32)[steps][np.newaxis]
    meter = WordErrorRate("log_probs")
    meter.update({"log_probs": scores}, {}, np.array([[1, 1, 2]]))
    assert meter.scores().value == 0


@pytest.mark.parametrize(
    ("output", "labels", "complaint"),
    [
        (np.zeros((1, 3), np.int64), np.zeros(1, np.int64), "token numbers as labels"),
        (np.zeros((1, 3), np.int64), None, "token numbers as labels"),
        (np.zeros((1, 3), np.float32), np.zeros((1, 2), np.int64), "wer reads token numbers"),
        (np.zeros((2, 3), np.int64), np.zeros((1, 2), np.int64), "2 rows for 1 labels"),
    ],
)
def test_what_does_not_fit(output, labels, complaint):
    with pytest.raises(InputError, match=complaint):
        WordErrorRate("").update({"y": output}, {}, labels)
