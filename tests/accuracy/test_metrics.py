from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtpipe.accuracy.metrics import TopK, WordErrorRate, edit_distance, meter_value
from trtpipe.errors import InputError


def measured(metric: str, scores: np.ndarray, labels, output: str = "") -> float:
    meter = TopK(metric, output)
    meter.update({"logits": scores}, {}, np.asarray(labels))
    return meter.scores().value


def by_sorting(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of labels among the k best by a stable sort: on ties, the class that comes first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float((order == labels[:, np.newaxis]).any(axis=1).mean())


@pytest.mark.parametrize(("metric", "k"), [("top1", 1), ("top5", 5)])
@given(rows=st.integers(1, 20), classes=st.integers(1, 12), levels=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_it_is_what_a_stable_sort_gives_ties_and_all(metric, k, rows, classes, levels, seed):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, levels, (rows, classes)).astype(np.float32)
    labels = generator.integers(0, classes, rows)
    assert measured(metric, scores, labels) == pytest.approx(by_sorting(scores, labels, k))


def test_top1_is_argmax():
    generator = np.random.default_rng(0)
    scores, labels = generator.normal(size=(500, 10)).astype(np.float32), generator.integers(0, 10, 500)
    assert measured("top1", scores, labels) == np.mean(scores.argmax(axis=1) == labels)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_a_model_may_give_the_class_itself(shape, dtype):
    assert measured("top1", np.array([3, 0, 2, 2], dtype).reshape(shape), [3, 1, 2, 0]) == 0.5
    with pytest.raises(InputError, match="does not fit the 1 classes"):
        measured("top5", np.array([3, 0, 2, 2], dtype).reshape(shape), [3, 1, 2, 0])


@pytest.mark.parametrize(
    ("found", "labels", "guessed", "doubted"),
    [
        ([0, 1, 2] * 9, [0, 1, 1] * 9, False, False),
        ([3, 3, 3] * 9, [3, 1, 3] * 9, True, False),
        ([3, 1, 3] * 9, [3, 3, 3] * 9, False, True),
        ([3, 3, 3] * 9, [3, 3, 3] * 9, False, True),
    ],
)
def test_who_gives_one_class_to_all_guesses(found, labels, guessed, doubted):
    """Two thirds of the labels are far above one of four, and a constant gives them."""
    for scores in (np.eye(4, dtype=np.float32)[found], np.array(found)):
        meter = TopK("top1", "")
        for row, label in zip(scores, labels, strict=True):
            meter.update({"y": row[np.newaxis]}, {}, np.array([label]))
        assert meter_value("model", "CPU", meter).guessed is guessed
        assert bool(meter.doubt) is doubted


def test_one_class_for_all_samples_is_no_less_than_guessing():
    meter = TopK("top1", "")
    meter.update({"y": np.eye(4)[[0, 0, 0]]}, {}, np.array([1, 2, 3]))
    assert meter.chance == 0.25


def test_class_numbers_have_a_chance_too():
    meter = TopK("top1", "")
    meter.update({"y": np.array([0, 9, 3])}, {}, np.array([1, 2, 3]))
    assert meter.chance == 0.1
    named = TopK("top1", "", named=100)
    named.update({"y": np.array([0, 9, 3])}, {}, np.array([1, 2, 3]))
    assert named.chance == 0.01


@pytest.mark.parametrize("metric", ["top1", "top5"])
def test_nan_is_never_a_hit(metric):
    scores = np.array([[np.nan, 1, 2], [np.nan] * 3, [0, np.nan, 1]], np.float32)
    assert measured(metric, scores, [0, 1, 1]) == 0
    assert measured(metric, scores, [2, 0, 2]) == pytest.approx(2 / 3)


def test_infinities_have_their_order():
    scores = np.array([[np.inf, 1, -np.inf], [-np.inf, -np.inf, -np.inf]], np.float32)
    assert measured("top1", scores, [0, 0]) == 1
    assert measured("top1", scores, [2, 1]) == 0


def test_feeds_are_summed_by_rows():
    meter = TopK("top1", "")
    assert (meter.scores().samples, meter.scores().value) == (0, 0)
    meter.update({"y": np.eye(4, dtype=np.float32)}, {}, np.arange(4))
    meter.update({"y": np.eye(2, dtype=np.float32)}, {}, np.array([1, 0]))
    found = meter.scores()
    assert (found.samples, found.value, found.arrays()[0].tolist()) == (6, pytest.approx(4 / 6), [1, 1, 1, 1, 0, 0])


def test_the_output_is_the_first_or_the_one_named():
    outputs = {"box": np.zeros((2, 4), np.float32), "logits": np.array([[0, 1], [1, 0]], np.float32)}
    meter = TopK("top1", "logits")
    meter.update(outputs, {}, np.array([1, 0]))
    assert meter.scores().value == 1
    first = TopK("top1", "")
    first.update(outputs, {}, np.array([1, 0]))
    assert first.scores().value == 0.5
    with pytest.raises(InputError, match="no output is called 'scores'") as caught:
        TopK("top1", "scores").update(outputs, {}, np.array([1, 0]))
    assert "box, logits" in caught.value.remedy


def test_further_axes_of_length_1_do_not_matter():
    scores = np.array([[0, 2, 1], [5, 2, 1]], np.float32)
    assert measured("top1", scores[:, :, np.newaxis, np.newaxis], [1, 0]) == 1
    assert measured("top1", scores[:, np.newaxis, :], [1, 0]) == 1


@pytest.mark.parametrize("label", [3, 100, -1])
def test_labels_that_are_no_class(label):
    with pytest.raises(InputError, match=f"label {label} does not fit the 3 classes of output 'logits'"):
        measured("top1", np.zeros((2, 3), np.float32), [0, label])


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (0, 4), (2, 0)])
def test_scores_that_fit_no_labels(shape):
    with pytest.raises(InputError, match=r"output 'logits' has shape .* for 2 labels; top1 needs \[batch, classes\]"):
        measured("top1", np.zeros(shape, np.float32), [0, 1])


def test_integer_and_half_scores():
    assert measured("top1", np.array([[3, 9, 4]], np.int8), [1]) == 1
    assert measured("top1", np.array([[3, 9, 4]], np.float16), [1]) == 1


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
