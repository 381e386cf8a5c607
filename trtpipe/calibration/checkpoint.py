"""What an interrupted pass over the data has found so far, so that the next one goes on from there.

Statistics are integer counts and exact extremes, the account's sums are fractions: what a resumed pass ends with has
the same bytes as that of an uninterrupted one. Whether a checkpoint belongs to the same data, model and settings is
the folder's business: it must be one of those alone (see ``ArtifactStore.resumable``).
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from trtpipe.artifact import Record
from trtpipe.calibration.convergence import Point
from trtpipe.calibration.data_summary import Progressed
from trtpipe.calibration.statistics_file import load_statistics, save_statistics
from trtpipe.data.bad_samples import Skipped
from trtpipe.digest import sha256_file
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.calibration.statistics import Statistics

#: Seconds of work an interruption may cost at most ...
SECONDS = 10.0
#: ... unless writing takes long: then it gets this share of the time.
_SHARE = 0.01

_STATE = "checkpoint.json"


class State(Record):
    """Where a pass stands.

    Attributes:
        statistics: sha256 of the statistics file beside it.
        taken: feeds walked past, those skipped included.
        account, course: their notes.
        skipped: bad samples met while the model ran.
    """

    statistics: str = ""
    taken: int
    account: Progressed
    course: tuple[Point, ...]
    skipped: tuple[Skipped, ...]


class Checkpoints:
    """The checkpoint in ``folder``: at most one, replaced in one step."""

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
        path = self._folder / f"checkpoint-{state.taken}.npz"
        save_statistics(statistics, path)
        draft = self._folder / f"{_STATE}.new"
        state.model_copy(update={"statistics": sha256_file(path)}).write(draft)
        draft.replace(self._folder / _STATE)
        for old in self._folder.glob("checkpoint-*.npz"):
            if old != path:
                old.unlink()
        end = time.monotonic()
        self._next = end + max(SECONDS, (end - begin) / _SHARE)

    def load(self) -> tuple[Statistics, State] | None:
        """The last checkpoint; ``None`` if there is none, or if it was damaged, for example by a loss of power."""
        try:
            state = State.read(self._folder / _STATE)
            path = self._folder / f"checkpoint-{state.taken}.npz"
            return (load_statistics(path), state) if sha256_file(path) == state.statistics else None
        except (InputError, OSError):
            return None

    def remove(self) -> None:
        """Forget it."""
        for path in (self._folder / _STATE, self._folder / f"{_STATE}.new", *self._folder.glob("checkpoint-*.npz")):
            with suppress(FileNotFoundError):
                path.unlink()
