from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from trtpipe.config.recipe import DataSettings
from trtpipe.data.batching import BatchedDataset, batched, read_ahead
from trtpipe.data.sample import ContentDigests, Sample
from trtpipe.data.selection import select
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


def rows(count: int) -> Generator[Sample, None, None]:
    for index in range(count):
        yield Sample({"x": np.full((1, 2), index)}, np.array([index * 10]))


def data_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("trtpipe-data")]


class TestBatched:
    def test_stacks_values_and_labels(self) -> None:
        first, second = batched(rows(5), 3, "d", fixed=False, dropped=[])
        assert first.feed["x"].tolist() == [[0, 0], [1, 1], [2, 2]]
        assert first.labels is not None
        assert first.labels.tolist() == [0, 10, 20]
        assert second.feed["x"].tolist() == [[3, 3], [4, 4]]

    def test_different_shapes_in_one_batch_are_refused(self) -> None:
        ragged = [Sample({"x": np.zeros((1, n))}) for n in (2, 3)]
        assert len(list(batched(ragged, 1, "d", fixed=False, dropped=[]))) == 2
        with pytest.raises(InputError, match=r"d: samples of one batch differ in shape: \[2\] and \[3\]"):
            list(batched(ragged, 2, "d", fixed=False, dropped=[]))


class TestReadAhead:
    def test_keeps_the_order_and_ends(self) -> None:
        assert list(read_ahead(iter(range(100)))) == list(range(100))
        assert data_threads() == []

    def test_reads_one_item_while_the_consumer_holds_another(self) -> None:
        reached = threading.Event()

        def items() -> Iterator[int]:
            yield 0
            reached.set()
            yield 1

        ahead = read_ahead(items())
        assert next(ahead) == 0
        assert reached.wait(10)
        assert list(ahead) == [1]

    def test_never_reads_further_than_one_ahead(self) -> None:
        read: list[int] = []

        def items() -> Iterator[int]:
            for index in range(50):
                read.append(index)
                yield index

        for item in read_ahead(items()):
            assert len(read) <= item + 2

    def test_an_exception_comes_out_where_it_belongs(self) -> None:
        def items() -> Iterator[int]:
            yield 0
            raise InputError("broken", "mend it")

        ahead = read_ahead(items())
        assert next(ahead) == 0
        with pytest.raises(InputError, match="broken"):
            next(ahead)
        assert data_threads() == []


class TestBatchedDataset:
    @pytest.fixture
    def closed(self) -> list[bool]:
        return []

    @pytest.fixture
    def dataset(self, closed: list[bool]) -> BatchedDataset:
        def read() -> Generator[Sample, None, None]:
            try:
                yield from rows(10)
            finally:
                closed.append(True)

        return BatchedDataset("ten", select(10, DataSettings(batch=4), None, "d"), read, lambda: ContentDigests("abc"))

    def test_iterates_again_and_again(self, dataset: BatchedDataset) -> None:
        iterations = [[sample.feed["x"][:, 0].tolist() for sample in dataset] for _ in range(2)]
        assert iterations == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]] * 2
        assert (dataset.size, dataset.samples, dataset.digests().inputs) == (3, 10, "abc")

    def test_closing_early_ends_the_thread_and_the_source(self, dataset: BatchedDataset, closed: list[bool]) -> None:
        iteration = iter(dataset)
        next(iteration)
        assert data_threads() != []
        assert not closed
        iteration.close()
        assert data_threads() == []
        assert closed == [True]
