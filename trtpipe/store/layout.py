"""Where things lie in a store, who may own it, and the locks that keep processes out of each other's way.

::

    <root>/                                          0700, ours
      v1/<stage>/<digest[:2]>/<digest>/              entries: only ever renamed into place or out of it, whole
      tmp/<id>/ and <id>.lock                        private work folders; an unlocked one is an orphan
      partial/<digest>/                              what an interrupted build left to the next one of the same key
      locks/<digest>.lock                            one builder per key
      locks/removal.lock                             one process at a time takes entries away
      corrupt/<stage>-<digest>-<id>/                 entries that failed their check, for a look at them
      memo/<sha256 of name>.json                     small facts

What makes it safe: an entry appears by one ``rename`` of a complete, flushed folder, and disappears by one ``rename``
under the removal lock. A reader holds a shared lock on the entry's record while it uses the files; the removal of
an entry needs that lock alone.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.config.os_errors import translate_os_errors
from trtpipe.errors import HostError
from trtpipe.store.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.store.key import Key

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ELSEWHERE = "choose another folder with --cache-dir"


@dataclass(frozen=True)
class Layout:
    """The folders of the store in ``root`` (absolute)."""

    root: Path

    @property
    def entries(self) -> Path:
        return self.root / "v1"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def partial(self) -> Path:
        return self.root / "partial"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def corrupt(self) -> Path:
        return self.root / "corrupt"

    @property
    def memo(self) -> Path:
        return self.root / "memo"

    def place(self, key: Key) -> Path:
        """The folder of the entry for ``key``, whether or not it is there."""
        digest = key.digest
        return self.entries / key.stage / digest[:2] / digest

    def places(self, stage: str = "*") -> Iterator[Path]:
        """Everything that stands where an entry stands, of one stage or of all."""
        for path in self.entries.glob(f"{stage}/[0-9a-f][0-9a-f]/*"):
            if _DIGEST.fullmatch(path.name):
                yield path

    @contextmanager
    def translate(self, doing: str, needed: int | None = None) -> Iterator[None]:
        """Say what the operating system refuses in terms of this store; see :func:`translate_os_errors`."""
        with translate_os_errors(self.root, doing, needed=needed, elsewhere=_ELSEWHERE):
            try:
                yield
            except FileNotFoundError as error:
                message = f"cannot {doing}: {error.filename or self.root} was removed by another program"
                raise HostError(message, "run the command again") from error

    def create(self) -> None:
        """Make the store's folders where they are missing.

        Raises:
            HostError: the folder cannot be written, or is not this user's alone.
        """
        if os.path.lexists(self.root):
            self.check_owner()
        with self.translate("create the cache"):
            for folder in (self.entries, self.tmp, self.locks):
                self.make(folder)

    def make(self, folder: Path) -> None:
        """Make a folder of the store, durably; none on the way may be a link, because it could lead anywhere.

        Raises:
            HostError: one is a link.
        """
        for path in (self.root / part for part in _beginnings(folder.relative_to(self.root))):
            if path.is_symlink():
                raise _unusable(self.root, f"{path} is a link", f"remove {path}, or ")
        make_folder(folder)

    def check_owner(self) -> None:
        """Refuse an existing folder in which another user could have planted an engine: engines are native code.

        An empty folder of our own is made private instead.

        Raises:
            HostError: not a folder, another user's, or open to writing by others.
        """
        with self.translate("use the cache"):
            try:
                status = self.root.stat()
            except FileNotFoundError as error:
                raise _unusable(self.root, "a link to nothing") from error
            if not stat.S_ISDIR(status.st_mode):
                raise _unusable(self.root, "a file, not a folder")
            if status.st_uid != os.geteuid():
                raise _unusable(self.root, f"owned by another user (uid {status.st_uid})")
            if not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return
            if any(self.root.iterdir()):
                raise _unusable(self.root, "other users can write to it", f"chmod go-w {self.root}, or ")
            self.root.chmod(0o700)

    def key_lock(self, digest: str) -> Path:
        """The lock of the one builder of a key."""
        return self.locks / f"{digest}.lock"

    @property
    def removal_lock(self) -> Path:
        """The lock that is the right to take entries away."""
        return self.locks / "removal.lock"


def _beginnings(path: Path) -> list[Path]:
    """``a/b/c`` as ``a``, ``a/b``, ``a/b/c``."""
    return [*reversed(path.parents[:-1]), path]


def _unusable(root: Path, why: str, first: str = "") -> HostError:
    return HostError(f"cannot use the cache {root}: {why}", f"{first}{_ELSEWHERE}")
