"""Which samples of a source are used: a seeded selection, in a stable order; and subsampling of feeds."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.data.sample import RowContents, Sample, content_digests
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from trtpipe.artifact import Feed
    from trtpipe.config.recipe import DataSettings
    from trtpipe.data.sample import Dataset

#: Bytes of feeds that are held while the size of a data set is not known.
_MOST_HELD = 64 << 20


@dataclass(frozen=True)
class Selection:
    """The selected samples of a source whose number of samples is known.

    Attributes:
        where: the source, for error messages.
        indices: positions in the source, ascending.
        total: samples in the source.
        batch: samples stacked into one feed; the last feed may have fewer.
        dropped: samples not used because they do not fill a batch of a fixed size.
        seed: of the selection; ``None`` if all are used.
        fixed: whether the model takes full batches only.
        max_bad_samples: how many bad samples an iteration may skip.
        wanted: samples asked for; ``None`` for all.
    """

    where: str
    indices: tuple[int, ...]
    total: int
    batch: int
    dropped: int
    seed: int | None
    fixed: bool
    max_bad_samples: int
    wanted: int | None = None

    @property
    def feeds(self) -> int:
        return -(-len(self.indices) // self.batch)

    @property
    def description(self) -> str:
        """For reports: ``256 of 1000, seed 0``."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{len(self.indices)} of {self.total}{seed}"

    @property
    def warnings(self) -> tuple[str, ...]:
        dropped = (dropped_warning(self.dropped, self.batch),) if self.dropped else ()
        fewer = (fewer_samples(self.total, self.wanted),) if self.wanted and self.total < self.wanted else ()
        return (*fewer, *dropped)


def select(total: int, data: DataSettings, fixed_batch: int | None, where: str) -> Selection:
    """Select ``data.samples`` of ``total`` samples with ``data.seed``, in full batches if the batch size is fixed.

    Where there are fewer than asked for, all are used, with a warning.

    Raises:
        InputError: the source is empty, or cannot fill one batch.
    """
    if total == 0:
        raise no_samples(where)
    chosen = range(total) if data.samples is None or data.samples >= total else _random(total, data.samples, data.seed)
    batch = fixed_batch or data.batch
    dropped = len(chosen) % batch if fixed_batch else 0
    indices = tuple(chosen)[: len(chosen) - dropped]
    if not indices:
        raise no_full_batch(where, len(chosen), batch)
    seed = None if isinstance(chosen, range) else data.seed
    fixed = fixed_batch is not None
    return Selection(where, indices, total, batch, dropped, seed, fixed, data.skip_bad_samples, data.samples)


def no_samples(where: str) -> InputError:
    """The error for a source without samples."""
    return InputError(f"{where}: there are no samples", "give data the model can run on")


def fewer_samples(found: int, wanted: int) -> str:
    """The warning about a source with fewer samples than asked for."""
    return f"{wanted} samples were asked for, and there are {found}: all are used"


def no_full_batch(where: str, found: int, batch: int) -> InputError:
    """The error for a source that cannot fill one batch of a model with a fixed batch size."""
    return InputError(
        f"{where}: {found} samples do not fill one batch of {batch}, the model's fixed batch size",
        f"give at least {batch} samples, or a model with a dynamic batch axis",
    )


def dropped_warning(dropped: int, batch: int) -> str:
    """The warning about samples after the last full batch."""
    return f"the last {dropped} sample(s) were not used: they do not fill a batch of {batch}"


def subsample_feeds(dataset: Dataset, most: int, most_bytes: int) -> list[Feed]:
    """Every n-th feed of ``dataset``, for the smallest power of two n within both limits; at least one feed.

    Memory use does not depend on the length of the data set. The same data set gives the same feeds.

    Args:
        most: number of feeds.
        most_bytes: of all their arrays together.
    """
    kept: list[Feed] = []
    stride = 1
    with closing(iter(dataset)) as samples:
        for index, sample in enumerate(samples):
            if index % stride:
                continue
            kept.append(sample.feed)
            while len(kept) > 1 and (len(kept) > most or _bytes(kept) > most_bytes):
                kept = kept[::2]
                stride *= 2
    return kept


@dataclass
class Spread:
    """Feeds of a data set that are evenly spread over it, one at least; each is read once.

    Of a data set whose size is not known, every n-th one is held until all were read, at most 64 MiB of them, for the
    smallest power of two n.

    Args:
        dataset: the samples.
        most: how many samples may be used.
        takes_all: asked of the first feed: whether all are used.

    Attributes:
        feeds: numbers of the feeds that were used, from 0; complete after an iteration, as all that follows.
        rows: numbers of the samples in them.
        seen: how many samples there are.
        size: how many feeds are used, once the first of them was read; ``None`` where that is not known.
    """

    dataset: Dataset
    most: int
    takes_all: Callable[[Sample], bool] = lambda sample: False
    feeds: list[int] = field(default_factory=list, init=False)
    rows: list[int] = field(default_factory=list, init=False)
    seen: int = field(default=0, init=False)
    size: int | None = field(default=None, init=False)

    def __iter__(self) -> Generator[Sample, None, None]:
        self.feeds, self.rows, self.seen = [], [], 0
        size, count = self.dataset.size, self.dataset.samples
        with closing(iter(self.dataset)) as samples:
            first = next(samples, None)
            if first is None:
                return
            every = chain([first], samples)
            if self.takes_all(first) or (count is not None and count <= self.most):
                self.size = size
                yield from self._chosen(every, None)
            elif size is None or count is None:
                yield from self._held(every)
            else:
                self.size = max(self.most * size // count, 1)
                yield from self._chosen(every, [index * size // self.size for index in range(self.size)])
                self.seen = count

    def _chosen(self, samples: Iterator[Sample], numbers: list[int] | None) -> Iterator[Sample]:
        for number, sample in enumerate(samples):
            if numbers is None or number in numbers:
                self._use(number, self.seen, sample)
                yield sample
                if numbers and number == numbers[-1]:
                    return  # what is left need not be read
            self.seen += sample.rows

    def _held(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        held: list[tuple[int, int, Sample]] = []
        stride = 1
        for number, sample in enumerate(samples):
            if number % stride == 0:
                held.append((number, self.seen, sample))
                while len(held) > 1 and self._too_many([each for _, _, each in held]):
                    held, stride = held[::2], 2 * stride
            self.seen += sample.rows
        self.size = len(held)
        for number, row, sample in held:
            self._use(number, row, sample)
            yield sample

    def _use(self, number: int, row: int, sample: Sample) -> None:
        self.feeds.append(number)
        self.rows.extend(range(row, row + sample.rows))

    def _too_many(self, samples: list[Sample]) -> bool:
        return sum(each.rows for each in samples) > self.most or _bytes([each.feed for each in samples]) > _MOST_HELD


def sample_feeds(dataset: Dataset, most: int, most_bytes: int) -> list[Feed]:
    """A few feeds of ``dataset``, which its order does not decide; at least one.

    Those whose content has the smallest digests, in that order: as random as a draw, and the same for the same samples.
    Memory use does not depend on the length of the data set.

    Args:
        most: number of feeds.
        most_bytes: of all their arrays together.
    """
    kept: list[tuple[str, Feed]] = []
    with closing(iter(dataset)) as samples:
        for sample in samples:
            digest = content_digests([Sample(sample.feed)]).inputs
            if len(kept) == most and digest >= kept[-1][0]:
                continue
            kept = sorted([*kept, (digest, sample.feed)], key=itemgetter(0))
            while len(kept) > 1 and (len(kept) > most or _bytes([feed for _, feed in kept]) > most_bytes):
                kept.pop()
    return [feed for _, feed in kept]


def drawn_samples(dataset: Dataset, most: int) -> Iterator[Sample]:
    """So many feeds of ``dataset``, which its order does not decide: those with the smallest digests.

    The data set is read twice, so that none of them need be held.
    """
    digests: list[str] = []
    with closing(iter(dataset)) as samples:
        digests.extend(min(RowContents.of(sample).rows) for sample in samples)
    chosen = frozenset(sorted(range(len(digests)), key=lambda number: (digests[number], number))[:most])
    with closing(iter(dataset)) as samples:
        for number, sample in enumerate(samples):
            if number in chosen:
                yield sample
            if number == max(chosen):
                return


def _bytes(feeds: list[Feed]) -> int:
    return sum(value.nbytes for feed in feeds for value in feed.values())


def _random(total: int, wanted: int, seed: int) -> list[int]:
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen: list[int] = np.sort(generator.choice(total, wanted, replace=False)).tolist()
    return chosen
