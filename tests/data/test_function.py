from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from trtpipe.config.recipe import DataSettings
from trtpipe.data.dataset import open_dataset
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import MakeContract

    from trtpipe.artifact import IOContract
    from trtpipe.data.sample import Dataset

    Open = Callable[..., Dataset]


@pytest.fixture
def model(contract: MakeContract) -> IOContract:
    return contract(x=("float32", ("N", 2)))


@pytest.fixture
def opened(tmp_path: Path, model: IOContract) -> Open:
    """Open the function ``feeds`` of a file with the body given."""

    def make(body: str, io: IOContract = model, name: str = "feeds", **settings: Any) -> Dataset:
        (tmp_path / "data.py").write_text("import numpy as np\n" + textwrap.dedent(body))
        return open_dataset(DataSettings(source=f"{tmp_path / 'data.py'}:{name}", **settings), io)

    return make


BATCHES = """
def feeds():
    for i in range(5):
        yield {"x": np.full((2, 2), i, np.float32)}, [i, i + 10]
"""
SINGLES = """
def feeds():
    buffer = np.zeros(2)
    for i in range(5):
        buffer[:] = i
        yield buffer, i
"""


class TestFeeds:
    def test_batches_pass_as_they_are(self, opened: Open) -> None:
        dataset = opened(BATCHES, batch=3)
        assert [(s.feed["x"][0, 0], s.labels.tolist()) for s in dataset if s.labels is not None] == [
            (i, [i, i + 10]) for i in range(5)
        ]
        assert (dataset.size, dataset.samples, dataset.seed, dataset.preprocessing) == (None, None, None, None)
        assert dataset.name == "data.py:feeds (all samples)"

    def test_single_samples_are_stacked_even_from_a_buffer_used_again(self, opened: Open) -> None:
        samples = list(opened(SINGLES, batch=2))
        assert [s.feed["x"].tolist() for s in samples] == [[[0, 0], [1, 1]], [[2, 2], [3, 3]], [[4, 4]]]
        assert [s.labels.tolist() for s in samples if s.labels is not None] == [[0, 1], [2, 3], [4]]

    def test_single_samples_fill_a_fixed_batch(self, opened: Open, contract: MakeContract) -> None:
        dataset = opened(SINGLES, contract(x=("float32", (2, 2))))
        assert dataset.warnings == ()
        assert [s.rows for s in dataset] == [2, 2]
        assert dataset.warnings == ("the last 1 sample(s) were not used: they do not fill a batch of 2",)
        with pytest.raises(InputError, match="5 samples do not fill one batch of 8"):
            list(opened(SINGLES, contract(x=("float32", (8, 2)))))

    @pytest.mark.parametrize("walk", range(2))
    def test_the_first_samples_are_taken_and_not_one_more_is_computed(self, opened: Open, walk: int) -> None:
        endless = """
        def feeds():
            for i in range(3):
                yield np.full((1, 2), i, "f4")
            raise RuntimeError("asked for more")
        """
        dataset = opened(endless, samples=3)
        assert [s.feed["x"][0, 0] for s in dataset] == [0, 1, 2]
        assert dataset.name == "data.py:feeds (the first 3 samples)"

    def test_the_last_feed_is_taken_whole(self, opened: Open) -> None:
        assert [s.rows for s in opened(BATCHES, samples=3)] == [2, 2]

    def test_any_iterable_of_array_likes_will_do(self, opened: Open) -> None:
        dataset = opened("def feeds():\n    return [[[1.0, 2.0]], [[3.0, 4.0]]]\n", samples=1)
        assert next(iter(dataset)).feed["x"].tolist() == [[1, 2]]

    def test_walks_start_anew(self, opened: Open) -> None:
        dataset = opened(SINGLES)
        assert [len(list(dataset)) for _ in range(3)] == [5, 5, 5]


class TestDigest:
    def test_is_of_what_is_yielded(self, opened: Open) -> None:
        base = opened(SINGLES).digests()
        assert opened(SINGLES + "\n# a comment changes nothing\n", batch=2).digests() == base
        assert opened(SINGLES, samples=4).digests() != base
        assert opened(SINGLES.replace("= i\n", "= i + 1\n")).digests() != base


class TestErrors:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (
                "def feeds():\n    yield [[1., 2.]]\n    {}['key']\n",
                r"sample 1 failed: KeyError: 'key' \(data.py, line 4",
            ),
            ("def feeds(n):\n    yield n\n", "sample 0 failed: TypeError: feeds() missing 1 required"),
            ("def feeds():\n    pass\n", "sample 0 failed: TypeError: 'NoneType' object is not iterable"),
            ("def feeds():\n    yield from ()\n", "there are no samples"),
            ("def feeds():\n    yield 'text'\n", "yielded str, which is not a feed for inputs x"),
            ("def feeds():\n    yield {'y': 1}\n", "sample 0: the model has no input 'y'"),
            ("def feeds():\n    yield {'x': [[1], [1, 2]]}\n", "sample 0: not arrays of numbers"),
            ("def feeds():\n    yield [[1., 2.]]\n    yield [[1., 2., 3.]]\n", r"sample 1: input 'x' has shape [1, 3]"),
            ("def feeds():\n    yield [[1., 2.]], [1, 2]\n", r"2 label(s) for 1 row(s)"),
            ("def feeds():\n    yield [[1, 2]]\n", "has type int64, the model takes float32"),
        ],
    )
    def test_name_the_function_and_the_sample(self, opened: Open, body: str, message: str) -> None:
        pattern = message if "\\(" in message else re.escape(message)
        with pytest.raises(InputError, match=rf"data\.py:feeds: .*{pattern}"):
            list(opened(body))

    def test_where_there_are_fewer_samples_all_are_used(self, opened: Open) -> None:
        for body, found in ((SINGLES, 5), (BATCHES, 10)):
            dataset = opened(body, samples=11)
            for _ in range(2):
                assert sum(sample.rows for sample in dataset) == found
                assert dataset.warnings == (f"11 samples were asked for, and there are {found}: all are used",)

    def test_a_bare_array_for_two_inputs(self, opened: Open, contract: MakeContract) -> None:
        io = contract(a=("float32", None), b=("float32", None))
        with pytest.raises(InputError, match="yielded ndarray, which is not a feed for inputs a, b"):
            list(opened("def feeds():\n    yield np.zeros(3)\n", io))

    def test_the_users_generator_is_closed(self, opened: Open, tmp_path: Path) -> None:
        body = f"""
        def feeds():
            try:
                while True:
                    yield [[1.0, 2.0]]
            finally:
                open({str(tmp_path / "closed")!r}, "w").close()
        """
        walk = iter(opened(body))
        next(walk)
        walk.close()
        assert (tmp_path / "closed").exists()
