"""Checkpoints of a calibration pass, so that an interrupted one can resume.

Statistics are integer counts and exact extremes, the sums of the data summary are fractions: a resumed pass gives the
same bytes as an uninterrupted one. That a checkpoint belongs to the same data, model and settings is ensured by its
folder: it must belong to those alone (see ``ArtifactStore.resumable``).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from trtpipe.artifact import Record
from trtpipe.calibration.convergence import RangeSnapshot
from trtpipe.calibration.data_summary import SummaryState
from trtpipe.calibration.statistics_file import load_statistics, save_statistics
from trtpipe.data.sample import Skipped
from trtpipe.digest import sha256_file
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.calibration.statistics import Statistics

#: Seconds of work an interruption may cost at most ...
SECONDS = 10.0
#: ... unless writing takes long: then it may use this fraction of the time.
_WRITE_FRACTION = 0.01

_STATE = "checkpoint.json"


class State(Record):
    """Progress of a pass.

    Attributes:
        statistics: sha256 of the statistics file beside it.
        feeds: number of feeds read, skipped ones included.
        data_summary: the summary so far.
        snapshots: ranges so far.
        skipped: bad samples found while the model ran.
    """

    statistics: str = ""
    feeds: int
    data_summary: SummaryState
    snapshots: tuple[RangeSnapshot, ...]
    skipped: tuple[Skipped, ...]


class Checkpoints:
    """The checkpoint in ``folder``: at most one, replaced atomically."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = time.monotonic() + SECONDS

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._next

    def save(self, statistics: Statistics, state: State) -> None:
        """Replace the checkpoint; an interruption at any moment leaves the old one or the new one.

        Raises:
            OSError: the folder cannot be written.
        """
        begin = time.monotonic()
        path = self._folder / f"checkpoint-{state.feeds}.npz"
        save_statistics(statistics, path)
        draft = self._folder / f"{_STATE}.new"
        state.model_copy(update={"statistics": sha256_file(path)}).write(draft)
        draft.replace(self._folder / _STATE)
        for old in self._folder.glob("checkpoint-*.npz"):
            if old != path:
                old.unlink()
        end = time.monotonic()
        self._next = end + max(SECONDS, (end - begin) / _WRITE_FRACTION)

    def load(self) -> tuple[Statistics, State] | None:
        """The last checkpoint; ``None`` if there is none, or if it is damaged, for example by a loss of power."""
        try:
            state = State.read(self._folder / _STATE)
            path = self._folder / f"checkpoint-{state.feeds}.npz"
            return (load_statistics(path), state) if sha256_file(path) == state.statistics else None
        except (InputError, OSError):
            return None

    def remove(self) -> None:
        """Delete the checkpoint, if there is one."""
        for path in (self._folder / _STATE, self._folder / f"{_STATE}.new", *self._folder.glob("checkpoint-*.npz")):
            path.unlink(missing_ok=True)
