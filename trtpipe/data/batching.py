"""From single samples to feeds: stacked to batches, and read ahead while the consumer computes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from trtpipe.data.bad_samples import Flaw, Skipped, sound
from trtpipe.data.sample import Sample
from trtpipe.data.selection import dropped_warning, no_full_batch
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from trtpipe.config.recipe import ImageSettings
    from trtpipe.data.selection import Selection

T = TypeVar("T")


@dataclass(frozen=True)
class StackedDataset:
    """A Dataset over a source whose samples are counted in advance. A new source is one function that builds this.

    Attributes:
        name, samples, preprocessing: as Dataset has them.
        where: the source, for complaints.
        selection: which samples are used, and how many a feed.
        read: starts reading: yields the chosen samples, checked, each with a batch axis; or what is wrong with one.
        fingerprint: computes the content digest; called once at most.
        remarks: warnings known from the start.
        tolerated: how many bad samples a walk may leave out.
    """

    name: str
    where: str
    samples: int
    selection: Selection
    read: Callable[[], Generator[Sample | Flaw, None, None]]
    fingerprint: Callable[[], str]
    remarks: tuple[str, ...] = ()
    preprocessing: ImageSettings | None = None
    tolerated: int = 0
    _skipped: list[Skipped] = field(default_factory=list, init=False)
    _dropped: list[int] = field(default_factory=list, init=False)

    @property
    def size(self) -> int:
        """Number of feeds."""
        return self.selection.feeds

    @property
    def seed(self) -> int | None:
        """The seed of the selection."""
        return self.selection.seed

    def __iter__(self) -> Generator[Sample, None, None]:
        """Feeds of ``selection.batch`` samples, one read ahead."""
        self._skipped.clear()
        self._dropped.clear()
        with closing(self.read()) as rows:
            good = sound(rows, self.tolerated, self._skipped)
            yield from read_ahead(self._whole(joined(good, self.selection.batch, self.where)))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Bad samples the last walk left out."""
        return tuple(self._skipped)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out; complete once the data was walked through."""
        return (*self.remarks, *(dropped_warning(rows, self.selection.batch) for rows in self._dropped))

    def _whole(self, feeds: Iterator[Sample]) -> Iterator[Sample]:
        """Where the batch size is fixed, and bad samples were skipped, the last feed may not be full: it is left out.

        Raises:
            InputError: there is no full one.
        """
        full = 0
        for feed in feeds:
            if not self.selection.fixed or feed.rows == self.selection.batch:
                full += 1
                yield feed
            elif full:
                self._dropped.append(feed.rows)
            else:
                raise no_full_batch(self.where, feed.rows, self.selection.batch)

    def digest(self) -> str:
        """The sha256 of the content that is really used."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return self.fingerprint()


def joined(samples: Iterable[Sample], batch: int, where: str) -> Iterator[Sample]:
    """Samples stacked along the batch axis, ``batch`` at a time; the last may hold fewer.

    Raises:
        InputError: samples of one batch differ in shape.
    """
    iterator = iter(samples)
    while group := list(islice(iterator, batch)):
        yield group[0] if len(group) == 1 else _concatenated(group, where)


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield ``items``, making the next one in a thread meanwhile. Its exceptions come out here; closing ends it."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="trtpipe-data") as pool:
        upcoming = pool.submit(next, items, end)
        while (item := upcoming.result()) is not end:
            upcoming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]  # anything but ``end`` is a T


def _concatenated(group: list[Sample], where: str) -> Sample:
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
