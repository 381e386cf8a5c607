"""Which samples of a source are used: a seeded selection, in a stable order; and subsampling of feeds."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.data.sample import Sample, content_digests
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.artifact import Feed
    from trtpipe.config.recipe import DataSettings
    from trtpipe.data.sample import Dataset


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


def _bytes(feeds: list[Feed]) -> int:
    return sum(value.nbytes for feed in feeds for value in feed.values())


def _random(total: int, wanted: int, seed: int) -> list[int]:
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen: list[int] = np.sort(generator.choice(total, wanted, replace=False)).tolist()
    return chosen
