"""From single samples to feeds: stacked into batches, and read ahead while the consumer computes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from trtpipe.data.bad_samples import BadSample, good_samples
from trtpipe.data.sample import ContentDigests, Sample, Skipped
from trtpipe.data.selection import dropped_warning, no_full_batch
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from trtpipe.config.recipe import Preprocessing
    from trtpipe.data.selection import Selection

T = TypeVar("T")


@dataclass(frozen=True)
class BatchedDataset:
    """A Dataset over a source whose number of samples is known. A new source is one function that builds this.

    Attributes:
        title: what the data is, without the selection.
        read: yields the selected samples, checked, each with a batch axis; or what is wrong with one.
        content: computes the digests of the content; called once at most.
        classes: names of the classes that labels are numbers of.
        known_warnings: warnings known before the first iteration, besides those of the selection.
    """

    title: str
    selection: Selection
    read: Callable[[], Generator[Sample | BadSample, None, None]]
    content: Callable[[], ContentDigests]
    rows: int = 1
    known_warnings: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()
    _skipped: list[Skipped] = field(default_factory=list, init=False)
    _dropped: list[int] = field(default_factory=list, init=False)

    @property
    def name(self) -> str:
        return f"{self.title} ({self.selection.description})"

    @property
    def samples(self) -> int:
        return len(self.selection.indices) * self.rows

    @property
    def size(self) -> int:
        return self.selection.feeds

    @property
    def seed(self) -> int | None:
        return self.selection.seed

    def __iter__(self) -> Generator[Sample, None, None]:
        """Feeds of ``selection.batch`` samples, one read ahead."""
        self._skipped.clear()
        self._dropped.clear()
        with closing(self.read()) as rows:
            chosen = self.selection
            good = good_samples(rows, chosen.max_bad_samples, self._skipped)
            yield from read_ahead(batched(good, chosen.batch, chosen.where, fixed=chosen.fixed, dropped=self._dropped))

    def unbatched(self) -> BatchedDataset:
        """The same samples one by one, where the model takes any number of them."""
        return self if self.selection.fixed else replace(self, selection=replace(self.selection, batch=1))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        return tuple(self._skipped)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was not used; complete after an iteration."""
        dropped = (dropped_warning(rows, self.selection.batch) for rows in self._dropped)
        return (*self.selection.warnings, *self.known_warnings, *dropped)

    def digests(self) -> ContentDigests:
        return self._digests

    @cached_property
    def _digests(self) -> ContentDigests:
        return self.content()


def batched(samples: Iterable[Sample], batch: int, where: str, *, fixed: bool, dropped: list[int]) -> Iterator[Sample]:
    """Samples stacked along the batch axis, ``batch`` at a time; the last may hold fewer.

    Args:
        fixed: whether the model takes full batches only; then a last one that is not full is dropped.
        dropped: receives the number of samples dropped.

    Raises:
        InputError: samples of one batch differ in shape; or only full batches can be used, and there is none.
    """
    iterator, first = iter(samples), True
    while group := list(islice(iterator, batch)):
        feed = group[0] if len(group) == 1 else _stacked(group, where)
        if not fixed or feed.rows == batch:
            yield feed
        elif first:
            raise no_full_batch(where, feed.rows, batch)
        else:
            dropped.append(feed.rows)
        first = False


def read_ahead(items: Iterator[T], stop: Callable[[], object] | None = None) -> Iterator[T]:
    """Yield ``items``, making the next one in a thread meanwhile. Its exceptions are raised here; closing ends it.

    Args:
        stop: ends the making of the next one, when an interruption is to end the wait for it.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="trtpipe-data") as pool:
        try:
            upcoming = pool.submit(next, items, end)
            while (item := upcoming.result()) is not end:
                upcoming = pool.submit(next, items, end)
                yield item  # type: ignore[misc]  # anything but ``end`` is a T
        except KeyboardInterrupt:
            if stop is not None:
                stop()
            raise


def _stacked(group: list[Sample], where: str) -> Sample:
    feed = {}
    for name in group[0].feed:
        parts = [sample.feed[name] for sample in group]
        shapes = {part.shape[1:] for part in parts}
        if len(shapes) > 1:
            first, second = sorted(shapes)[:2]
            raise InputError(
                f"{where}: samples of one batch differ in shape: {list(first)} and {list(second)} for input {name!r}",
                "bring all samples to one shape, or set batch to 1",
            )
        feed[name] = np.concatenate(parts)
    labels = [sample.labels for sample in group if sample.labels is not None]
    return Sample(feed, np.concatenate(labels) if labels else None)
