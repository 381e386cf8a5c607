from __future__ import annotations

import numpy as np
import pytest

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.config.profile import ShapeRange
from trtpipe.data.sample import Sample
from trtpipe.dynamic.infer import infer_shapes
from trtpipe.errors import InputError


class Data:
    """Feeds of these shapes."""

    name = "data"

    def __init__(self, *feeds: dict[str, tuple[int, ...]]) -> None:
        self._feeds = feeds

    def __iter__(self):
        for feed in self._feeds:
            yield Sample({name: np.zeros(shape, np.float32) for name, shape in feed.items()})


def contract(**inputs) -> IOContract:
    specs = tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in inputs.items())
    return IOContract(inputs=specs, outputs=())


def infer(model: IOContract, *feeds, **given):
    return infer_shapes(model, Data(*feeds), given).profile


def span(low, mid, high) -> ShapeRange:
    return ShapeRange(min=low, opt=mid, max=high)


TEXT = contract(ids=("B", "S"), mask=("B", "S"))


def text(batch: int, length: int) -> dict[str, tuple[int, int]]:
    return {"ids": (batch, length), "mask": (batch, length)}


def test_lengths_have_their_extremes_and_their_median_and_batches_begin_at_one():
    feeds = [text(8, length) for length in (12, 40, 7, 16, 9)] + [text(3, 200)]
    expected = span((1, 7), (8, 12), (8, 200))  # 7 9 12 | 16 40 200: half are no longer than 12
    assert infer(TEXT, *feeds) == {"ids": expected, "mask": expected}


def test_a_first_dimension_that_is_not_all_inputs_is_no_batch():
    model = contract(frames=("T", 80), speaker=(1, "E"))
    found = infer(model, {"frames": (50, 80), "speaker": (1, 4)}, {"frames": (70, 80), "speaker": (1, 4)})
    assert found == {"frames": span((50, 80), (50, 80), (70, 80)), "speaker": span((1, 4), (1, 4), (1, 4))}


def test_static_inputs_need_none_and_dimensions_without_a_name_count_alone():
    model = contract(image=("N", 3, None, None), scale=(4,))
    found = infer(model, {"image": (2, 3, 32, 48), "scale": (4,)}, {"image": (4, 3, 64, 40), "scale": (4,)})
    assert found == {"image": span((1, 3, 32, 40), (4, 3, 32, 40), (4, 3, 64, 48))}


def test_what_is_given_stays_and_ties_the_rest():
    given = span((1, 2), (4, 64), (16, 512))
    assert infer(TEXT, text(8, 12), ids=given) == {"ids": given, "mask": given}


def test_how_it_came_about_is_told():
    found = infer_shapes(TEXT, Data(text(2, 5), text(2, 9)), {})
    assert found.note == (
        "shapes from data, 2 feeds: ids 1x5 to 2x9, opt 2x5, mask 1x5 to 2x9, opt 2x5"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "feeds", "words"),
    [
        (contract(x=(1, 4)), [{"x": (1, 4)}], "no dynamic inputs"),
        (contract(x=None), [{"x": (1, 4)}], "rank is unknown"),
        (TEXT, [], "no samples"),
        (TEXT, [{"ids": (2, 4), "mask": (2, 5)}], "dimension 'S' is 4 in 'ids' and 5 in 'mask' in feed 1"),
    ],
)
def test_data_that_does_not_tell(model, feeds, words):
    with pytest.raises(InputError, match=words) as caught:
        infer(model, *feeds)
    assert caught.value.remedy


CACHE = contract(ids=("B", "T"), mask=("B", "S"), past=("B", 2, "P", 16))


def decoding(tokens: int, past: int) -> dict[str, tuple[int, ...]]:
    return {"ids": (1, tokens), "mask": (1, tokens + past), "past": (1, 2, past, 16)}


def test_an_empty_cache_is_a_length_and_what_is_a_sum_stays_one_at_every_bound():
    found = infer(CACHE, decoding(6, 0), decoding(1, 5), decoding(6, 0), decoding(1, 9), decoding(1, 28))
    assert found["past"] == span((1, 2, 0, 16), (1, 2, 9, 16), (1, 2, 28, 16))  # tuned for what is not empty
    assert found["ids"] == span((1, 1), (1, 1), (1, 6))
    assert found["mask"] == span((1, 1), (1, 10), (1, 34))  # no feed has these; a sum of the others' bounds


CHOICE = IOContract(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=("N", 4)), TensorSpec(name="rate", dtype="int64", shape=()),
        TensorSpec(name="size", dtype="int64", shape=(2,)),
    ),
    outputs=(),
)  # fmt: skip


class Valued:
    name = "calls"

    def __init__(self, *rates: int) -> None:
        self._rates = rates

    def __iter__(self):
        for number, rate in enumerate(self._rates):
            feed = {"x": np.zeros((2 + number, 4), np.float32), "rate": np.array(rate), "size": np.array([8, number])}
            yield Sample(feed)


def test_values_that_are_given_stay_and_no_others_are_made():
    rate = span((16000,), (16000,), (16000,))
    found = infer_shapes(CHOICE, Valued(16000, 16000), {"rate": rate})
    assert found.profile == {"rate": rate, "x": span((1, 4), (3, 4), (3, 4))}
    assert "--shapes" not in found.note


def test_a_value_that_is_the_same_in_all_feeds_is_offered():
    assert infer_shapes(CHOICE, Valued(16000, 16000), {}).note.endswith("--shapes rate:16000")
    assert "--shapes" not in infer_shapes(CHOICE, Valued(16000, 8000), {}).note
