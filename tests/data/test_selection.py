from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.config.recipe import DataSettings
from trtpipe.data.dataset import open_dataset, unbatched
from trtpipe.data.selection import Spread, drawn_samples, sample_feeds, select, subsample_feeds
from trtpipe.data.synthetic import RandomDataset
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trtpipe.data.sample import Dataset, Sample


def test_takes_all_in_order_when_no_number_is_asked_for() -> None:
    selection = select(5, DataSettings(), None, "d")
    assert selection.indices == (0, 1, 2, 3, 4)
    assert (selection.seed, selection.description, selection.warnings) == (None, "5 of 5", ())


def test_choice_is_sorted_without_repeats_and_decided_by_the_seed() -> None:
    chosen = {seed: select(1000, DataSettings(samples=50, seed=seed), None, "d").indices for seed in (0, 0, 1, 2)}
    for indices in chosen.values():
        assert len(set(indices)) == 50
        assert list(indices) == sorted(indices)
        assert 0 <= indices[0] <= indices[-1] < 1000
    assert len(set(chosen.values())) == 3
    assert select(1000, DataSettings(samples=50, seed=1), None, "d").indices == chosen[1]
    assert select(1000, DataSettings(samples=50, seed=1), None, "d").description == "50 of 1000, seed 1"


def test_choice_is_uniform() -> None:
    counts = np.zeros(20)
    for seed in range(2000):
        counts[list(select(20, DataSettings(samples=5, seed=seed), None, "d").indices)] += 1
    # Each position is a binomial with mean 500 and deviation 19.4; 5 deviations either side.
    assert np.all(np.abs(counts - 500) < 97)


def test_last_feed_may_be_smaller_when_the_batch_is_free() -> None:
    selection = select(10, DataSettings(batch=4), None, "d")
    assert (len(selection.indices), selection.feeds, selection.dropped) == (10, 3, 0)


def test_a_fixed_batch_drops_the_remainder_and_says_so() -> None:
    selection = select(10, DataSettings(batch=7), 4, "d")
    assert (len(selection.indices), selection.feeds, selection.batch, selection.dropped) == (8, 2, 4, 2)
    assert selection.warnings == ("the last 2 sample(s) were not used: they do not fill a batch of 4",)


@pytest.mark.parametrize(
    ("total", "samples", "fixed", "complaint"),
    [
        (0, None, None, "d: there are no samples"),
        (3, None, 8, "d: 3 samples do not fill one batch of 8"),
    ],
)
def test_complaints(total: int, samples: int | None, fixed: int | None, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        select(total, DataSettings(samples=samples), fixed, "d")


def test_where_there_are_fewer_than_asked_for_all_are_used() -> None:
    selection = select(3, DataSettings(samples=4), None, "d")
    assert (selection.indices, selection.seed) == ((0, 1, 2), None)
    assert selection.warnings == ("4 samples were asked for, and there are 3: all are used",)


CONTRACT = IOContract(inputs=(TensorSpec(name="x", dtype="float32", shape=(1, 100)),), outputs=())


@pytest.mark.parametrize(("total", "most", "step"), [(1, 8, 1), (8, 8, 1), (9, 8, 2), (17, 8, 4), (100, 8, 16)])
def test_subsamples_are_evenly_spaced(total: int, most: int, step: int) -> None:
    dataset = RandomDataset(CONTRACT, {}, total)
    feeds = subsample_feeds(dataset, most, 1 << 30)
    every = [sample.feed["x"] for sample in dataset]
    assert len(feeds) <= most
    for found, wanted in zip(feeds, every[::step], strict=True):
        np.testing.assert_array_equal(found["x"], wanted)


def test_bytes_limit_subsamples_too_but_one_feed_always_comes() -> None:
    dataset = RandomDataset(CONTRACT, {}, 40)
    assert len(subsample_feeds(dataset, 64, 10 * 400)) == 10
    assert len(subsample_feeds(dataset, 64, 1)) == 1


def arrays(folder: Path, rows: np.ndarray, batch: int = 1) -> Dataset:
    folder.mkdir(exist_ok=True)
    np.savez(folder / "x.npz", x=rows)
    contract = IOContract(inputs=(TensorSpec(name="x", dtype="float32", shape=("n", 100)),), outputs=())
    return unbatched(open_dataset(DataSettings(source=str(folder / "x.npz"), batch=batch), contract))


@pytest.mark.parametrize(("most", "most_bytes"), [(8, 1 << 30), (100, 5 * 400)])
def test_neither_order_nor_batches_decide_which_samples_are_taken(tmp_path: Path, most: int, most_bytes: int) -> None:
    rows = np.random.default_rng(0).standard_normal((40, 100)).astype(np.float32)
    plain = sample_feeds(arrays(tmp_path / "plain", rows), most, most_bytes)
    turned = sample_feeds(arrays(tmp_path / "turned", rows[::-1].copy()), most, most_bytes)
    joined = sample_feeds(arrays(tmp_path / "joined", rows, batch=8), most, most_bytes)
    assert len(plain) == min(most, most_bytes // 400)
    for one, two, three in zip(plain, turned, joined, strict=True):
        assert one["x"].shape == (1, 100)
        np.testing.assert_array_equal(one["x"], two["x"])
        np.testing.assert_array_equal(one["x"], three["x"])


def test_one_sample_always_comes(tmp_path: Path) -> None:
    rows = np.ones((3, 100), np.float32)
    assert len(sample_feeds(arrays(tmp_path, rows), 8, 1)) == 1


class TestSpread:
    """Samples are numbers, so that each says which it is."""

    @pytest.fixture
    def data(self, tmp_path: Path) -> Callable[..., Dataset]:
        np.save(tmp_path / "x.npy", np.arange(20, dtype=np.float32)[:, None])
        contract = IOContract(inputs=(TensorSpec(name="x", dtype="float32", shape=("n", 1)),), outputs=())

        def make(batch: int = 1, *, known: bool = True) -> Dataset:
            dataset = open_dataset(DataSettings(source=str(tmp_path / "x.npy"), batch=batch), contract)
            return dataset if known else Unsized(dataset)  # type: ignore[return-value]

        return make

    @pytest.mark.parametrize(
        ("batch", "known", "most", "expected"),
        [
            (1, True, 4, [0, 5, 10, 15]),
            (1, True, 7, [0, 2, 5, 8, 11, 14, 17]),
            (4, True, 8, [0, 1, 2, 3, 8, 9, 10, 11]),
            (8, True, 2, [0, 1, 2, 3, 4, 5, 6, 7]),
            (1, True, 20, list(range(20))),
            (1, False, 7, [0, 4, 8, 12, 16]),
            (1, False, 20, list(range(20))),
        ],
    )
    def test_is_even(
        self, data: Callable[..., Dataset], batch: int, known: bool, most: int, expected: list[int]
    ) -> None:
        spread = Spread(data(batch, known=known), most)
        found = [int(value) for sample in spread for value in sample.feed["x"][:, 0]]
        assert found == spread.rows == expected
        assert (spread.seen, spread.size) == (20, len(spread.feeds))
        assert [number * batch for number in spread.feeds] == found[::batch]

    def test_takes_all_where_the_first_asks_for_it(self, data: Callable[..., Dataset]) -> None:
        asked: list[Sample] = []
        spread = Spread(data(), 3, lambda first: not asked.append(first))
        assert len(list(spread)) == 20
        assert len(asked) == 1


def test_drawn_samples_do_not_depend_on_the_order(tmp_path: Path) -> None:
    x = np.arange(30, dtype=np.float32)[:, None]
    contract = IOContract(inputs=(TensorSpec(name="x", dtype="float32", shape=("n", 1)),), outputs=())
    found = []
    for number, order in enumerate((x, x[::-1])):
        np.save(tmp_path / f"{number}.npy", order)
        dataset = open_dataset(DataSettings(source=str(tmp_path / f"{number}.npy")), contract)
        found.append(sorted(float(sample.feed["x"][0, 0]) for sample in drawn_samples(dataset, 6)))
    assert found[0] == found[1] != [0, 1, 2, 3, 4, 5]
    assert len(found[0]) == 6


class Unsized:
    """A data set that does not know how many samples it has, as of a function."""

    size = samples = None

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._dataset)
