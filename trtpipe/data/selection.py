"""Which samples of a source are used: a seeded choice, in a stable order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.config.recipe import DataSettings


@dataclass(frozen=True)
class Selection:
    """The chosen samples of a source that knows how many it has.

    Attributes:
        indices: positions in the source, ascending.
        total: samples in the source.
        batch: samples stacked into one feed; the last feed may have fewer.
        dropped: samples left out because they do not fill a batch of a fixed size.
        seed: what the choice was made with; ``None`` if all were taken.
        fixed: whether only whole batches can be used.
    """

    indices: tuple[int, ...]
    total: int
    batch: int
    dropped: int
    seed: int | None
    fixed: bool = False

    @property
    def feeds(self) -> int:
        """Number of feeds."""
        return -(-len(self.indices) // self.batch)

    @property
    def words(self) -> str:
        """For reports: ``256 of 1000, seed 0``."""
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{len(self.indices)} of {self.total}{seed}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was left out."""
        return (dropped_warning(self.dropped, self.batch),) if self.dropped else ()


def select(total: int, data: DataSettings, fixed_batch: int | None, where: str) -> Selection:
    """Choose ``data.samples`` of ``total`` samples with ``data.seed``; a fixed batch size is filled or not used.

    Args:
        total: samples in the source.
        data: how many are wanted, the seed, and the batch size if the model does not fix it.
        fixed_batch: the batch size the model is fixed to; ``None`` if it takes any.
        where: the source, for complaints.

    Raises:
        InputError: the source is empty, has fewer samples than asked for, or cannot fill one batch.
    """
    if total == 0:
        raise empty(where)
    if data.samples is not None and total < data.samples:
        raise too_few(where, total, data.samples)
    chosen = range(total) if data.samples is None or data.samples == total else _choice(total, data.samples, data.seed)
    batch = fixed_batch or data.batch
    dropped = len(chosen) % batch if fixed_batch else 0
    indices = tuple(chosen)[: len(chosen) - dropped]
    if not indices:
        raise no_full_batch(where, len(chosen), batch)
    seed = None if isinstance(chosen, range) else data.seed
    return Selection(indices, total, batch, dropped, seed, fixed_batch is not None)


def empty(where: str) -> InputError:
    """The complaint about a source without samples."""
    return InputError(f"{where}: there are no samples", "give data the model can run on")


def too_few(where: str, found: int, wanted: int) -> InputError:
    """The complaint about a source with fewer samples than asked for."""
    return InputError(
        f"{where}: there are {found} samples, fewer than the {wanted} asked for",
        f"set samples to {found} or less, or give more data",
    )


def no_full_batch(where: str, found: int, batch: int) -> InputError:
    """The complaint about a source that cannot fill one batch of a model with a fixed batch size."""
    return InputError(
        f"{where}: {found} samples do not fill one batch of {batch}, the size the model is fixed to",
        f"give at least {batch} samples, or a model with a dynamic batch axis",
    )


def dropped_warning(dropped: int, batch: int) -> str:
    """The warning about samples left over behind the last full batch."""
    return f"the last {dropped} sample(s) were left out: they do not fill a batch of {batch}"


def _choice(total: int, wanted: int, seed: int) -> list[int]:
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen: list[int] = np.sort(generator.choice(total, wanted, replace=False)).tolist()
    return chosen
