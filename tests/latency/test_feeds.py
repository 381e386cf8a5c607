"""Shapes and values to measure with."""

from __future__ import annotations

import numpy as np
import pytest

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.data.sample import Sample
from trtpipe.data.synthetic import RandomDataset
from trtpipe.errors import InputError
from trtpipe.latency.feeds import InputSource, points


def spec(name, *dims, dtype="float32"):
    return TensorSpec(name=name, dtype=dtype, shape=dims)


IMAGE = spec("x", "batch", 3, "height", "width")
STATE = spec("h", 2, "batch", 16)
IDS = spec("ids", "batch", "length", dtype="int64")


class TestPoints:
    def test_opt_shapes_come_first_then_the_samples_then_ones(self):
        sample = {"x": np.zeros((2, 3, 8, 8), np.float32)}
        assert points([IMAGE], [{"x": (4, 3, 16, 16)}], sample, ()) == ({"x": (4, 3, 16, 16)},)
        assert points([IMAGE], [], sample, ()) == ({"x": (2, 3, 8, 8)},)
        assert points([IMAGE], [], None, ()) == ({"x": (1, 3, 1, 1)},)

    def test_a_batch_is_every_dimension_of_that_name(self):
        found = points([IMAGE, STATE], [{"x": (4, 3, 8, 8)}], None, (1, 7))
        assert found == ({"x": (1, 3, 8, 8), "h": (2, 1, 16)}, {"x": (7, 3, 8, 8), "h": (2, 7, 16)})

    def test_without_names_it_is_every_open_first_dimension(self):
        nameless = [spec("x", None, 3), spec("w", 5, None)]
        assert points(nameless, [{"x": (2, 3), "w": (5, 9)}], None, (6,)) == ({"x": (6, 3), "w": (5, 9)},)

    def test_every_profile_at_every_batch_and_nothing_twice(self):
        opt = [{"ids": (1, 16)}, {"ids": (1, 64)}, {"ids": (8, 64)}]
        found = points([IDS], opt, None, (2, 4))
        assert [shapes["ids"] for shapes in found] == [(2, 16), (4, 16), (2, 64), (4, 64)]

    def test_what_cannot_be_done_is_refused(self):
        with pytest.raises(InputError, match="batch size is fixed"):
            points([spec("x", 1, 3)], [], None, (2,))
        with pytest.raises(InputError, match="rank of input 'x' is unknown"):
            points([TensorSpec(name="x", dtype="float32", shape=None)], [], None, ())


class Tokens:
    """Two samples of a table of 1000 words."""

    name = "sentences"
    feeds = (Sample({"ids": np.array([[101, 999, 7]])}), Sample({"ids": np.array([[5, 5, 5]])}))

    def __iter__(self):
        yield from self.feeds


class TestValues:
    def test_a_real_sample_is_taken_as_it_is(self):
        feed, words = InputSource.of(Tokens()).feed([IDS], {"ids": (1, 3)})
        assert feed["ids"].tolist() == [[101, 999, 7]]
        assert words == "first sample of sentences"

    def test_a_real_sample_is_cropped_or_tiled_so_that_indices_stay_in_range(self):
        feed, words = InputSource.of(Tokens()).feed([IDS], {"ids": (2, 5)})
        assert feed["ids"].tolist() == [[101, 999, 7, 101, 999]] * 2
        assert words.endswith("cropped or tiled to the shape")
        feed, _ = InputSource.of(Tokens()).feed([IDS], {"ids": (1, 2)})
        assert feed["ids"].tolist() == [[101, 999]]

    def test_given_values_are_taken_and_not_the_samples(self):
        rate, sizes = spec("rate", dtype="int64"), spec("sizes", 2, dtype="int64")
        material = InputSource({"rate": np.array(8000), "sizes": np.array([1, 1])}, "data")
        feed, _ = material.feed([rate, sizes], {"rate": (16000,), "sizes": (3, 4)})
        assert (feed["rate"].shape, int(feed["rate"]), feed["sizes"].tolist()) == ((), 16000, [3, 4])

    def test_a_sample_without_empty_arrays_is_sought(self):
        class Cache(Tokens):
            feeds = tuple(Sample({"past": np.full((1, length, 4), length)}) for length in (0, 0, 3, 5))

        past = spec("past", 1, "P", 4, dtype="int64")
        feed, words = InputSource.of(Cache()).feed([past], {"past": (1, 6, 4)})
        assert (feed["past"] == 3).all()
        assert words == "sample 3 of sentences, cropped or tiled to the shape"
        assert InputSource.of(Cache()).feed([past], {"past": (1, 0, 4)})[0]["past"].shape == (1, 0, 4)

    def test_an_array_that_is_empty_in_every_sample_is_filled(self):
        source = InputSource({"past": np.zeros((1, 0, 4), np.float32)}, "data")
        feed, _ = source.feed([spec("past", 1, "P", 4)], {"past": (1, 2, 4)})
        assert feed["past"].shape == (1, 2, 4)
        assert 0 < feed["past"].max() < 1

    def test_a_sample_of_another_rank_is_refused(self):
        with pytest.raises(InputError, match=r"shape \[1, 3\] cannot fill \[2, 3, 4\]"):
            InputSource.of(Tokens()).feed([IDS], {"ids": (2, 3, 4)})

    @pytest.mark.parametrize("dataset", [None, RandomDataset(IOContract(inputs=(IDS,), outputs=()), {}, 2)])
    def test_without_real_data_integers_fit_any_table(self, dataset):
        feed, words = InputSource.of(dataset).feed([IDS, IMAGE], {"ids": (4, 9), "x": (1, 3, 2, 2)})
        assert set(np.unique(feed["ids"])) == {0, 1}
        assert ((feed["x"] >= 0) & (feed["x"] < 1)).all()
        assert words == "synthetic: floats uniform in [0, 1), integers 0 or 1"
