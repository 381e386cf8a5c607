"""The folders of a store, their owner, and the locks and work folders in them.

::

    <root>/                                          0700, ours
      v1/<stage>/<digest[:2]>/<digest>/              entries: only ever renamed into place or out of it, whole
      tmp/<id>/ and <id>.lock                        private work folders; an unlocked one is left from a killed process
      partial/<digest>/                              what an interrupted build left for the next one of the same key
      locks/<digest>.lock                            one builder per key
      locks/removal.lock                             one process at a time removes entries
      corrupt/<stage>-<digest>-<id>/                 entries that failed their check, for inspection
      memo/<sha256 of name>.json                     small JSON values

An entry appears by one ``rename`` of a complete, flushed folder, and disappears by one ``rename``
under the removal lock. A reader holds a shared lock on the entry's record while it uses the files; the removal of
an entry needs that lock alone.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.config.os_errors import translate_os_errors
from trtpipe.errors import HostError
from trtpipe.store.files import acquire, make_folder, release, try_locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.config.authenticity import Seal
    from trtpipe.store.key import Key

#: Of the seal of an empty message: what an entry's folder is called after, besides its digest.
_PLACE, _TAG = "place", 16
_ENTRY = re.compile(r"[0-9a-f]{64}(-[0-9a-f]{16})?")
_DIGEST, _SCRATCH = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{16}")
#: What an interrupted build left is removed after a week.
_PARTIAL_SECONDS = 7 * 24 * 3600.0
_ELSEWHERE = "choose another folder with --cache-dir"


class Layout:
    """The folders and locks of the store in ``root`` (absolute), and the seal of its records."""

    def __init__(self, root: Path, seal: Seal) -> None:
        self.root = root
        self.seal = seal
        self.entries, self.tmp, self.partial = root / "v1", root / "tmp", root / "partial"
        self.locks, self.corrupt, self.memo = root / "locks", root / "corrupt", root / "memo"
        self.removal_lock = self.locks / "removal.lock"

    def place(self, key: Key) -> Path:
        """The folder of the entry for ``key`` under this seal, whether or not it is there.

        Those who share a cache folder under keys of their own never replace what another one reads.
        """
        return self.entries / key.stage / key.digest[:2] / entry_name(key, self.seal)

    def is_elsewhere(self, key: Key) -> bool:
        """Whether there is an entry for ``key`` under another seal."""
        place = self.place(key)
        return any(other != place for other in place.parent.glob(f"{key.digest}*"))

    def places(self, stage: str = "*") -> Iterator[Path]:
        """Everything in the place of an entry, of one stage or of all."""
        for path in self.entries.glob(f"{stage}/[0-9a-f][0-9a-f]/*"):
            if _ENTRY.fullmatch(path.name):
                yield path

    @contextmanager
    def translate(self, doing: str, needed: int | None = None) -> Iterator[None]:
        """Turn errors of the operating system into those of this store; see :func:`translate_os_errors`."""
        with translate_os_errors(self.root, doing, needed=needed, elsewhere=_ELSEWHERE):
            try:
                yield
            except FileNotFoundError as error:
                if error.filename == str(self.root) and self.root.parent.is_dir():  # as in /proc: nothing was there
                    raise _unusable(self.root, "its file system lets no folder be made there") from error
                message = f"cannot {doing}: {error.filename or self.root} was removed by another program"
                raise HostError(message, "run the command again") from error

    def create(self) -> None:
        """Create the store's folders where they are missing.

        Raises:
            HostError: the folder cannot be written, or others may write to it.
        """
        if os.path.lexists(self.root):
            self.check_owner()
        with self.translate("create the cache"):
            for folder in (self.entries, self.tmp, self.locks):
                self.make(folder)

    def make(self, folder: Path) -> None:
        """Create a folder of the store, durably; none of its parents in the store may be a link.

        Raises:
            HostError: one is a link.
        """
        for path in (self.root / part for part in _beginnings(folder.relative_to(self.root))):
            if path.is_symlink():
                raise _unusable(self.root, f"{path} is a link", f"remove {path}, or ")
        make_folder(folder)

    def check_owner(self) -> None:
        """Refuse an existing folder to which another user could have written an engine: engines are native code.

        An empty folder of this user is made private instead.

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


def seal_name(seal: Seal) -> str:
    """What tells one seal from others, and nothing of it: 16 hex digits."""
    return seal.seal(_PLACE, b"")[:_TAG]


def entry_name(key: Key, seal: Seal) -> str:
    """What the entry for a key is called under a seal."""
    return f"{key.digest}-{seal_name(seal)}"


def digest_of(place: Path) -> str:
    """The digest of the key whose entry a folder holds."""
    return place.name.partition("-")[0]


def _beginnings(path: Path) -> list[Path]:
    """``a/b/c`` as ``a``, ``a/b``, ``a/b/c``."""
    return [*reversed(path.parents[:-1]), path]


def _unusable(root: Path, why: str, first: str = "") -> HostError:
    return HostError(f"cannot use the cache {root}: {why}", f"{first}{_ELSEWHERE}")


@contextmanager
def scratch(layout: Layout, doing: str) -> Iterator[Path]:
    """A new empty folder, locked while it is in use and removed afterwards in any case.

    Raises:
        HostError: it cannot be created; the message names ``doing`` as what was not possible.
    """
    folder = layout.tmp / secrets.token_hex(8)
    with layout.translate(doing):
        layout.create()
        handle = acquire(_lock_of(folder))  # before the folder exists, so that no sweep finds it unlocked
    try:
        with layout.translate(doing):
            folder.mkdir(mode=0o700)
        if folder.stat().st_mode & stat.S_IRWXU != stat.S_IRWXU:
            raise HostError("the umask takes away the owner's own rights", "set another one: umask 022")
        yield folder
    finally:
        with layout.translate(doing):
            _discard(folder, handle)


@contextmanager
def resumable(layout: Layout, digest: str, doing: str) -> Iterator[Path]:
    """The work folder of the one builder of a key, which must hold its lock. It is empty, or holds what a killed
    or interrupted build of the same key left. Any other end of the build, success or failure, removes it.

    Raises:
        HostError: it cannot be created; the message names ``doing`` as what was not possible.
    """
    folder = layout.partial / digest
    with layout.translate(doing):
        layout.create()
        layout.partial.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        os.utime(folder)
    try:
        yield folder
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException:  # an interruption
        with suppress(OSError):
            folder.rmdir()  # only if there is nothing in it
        raise
    shutil.rmtree(folder, ignore_errors=True)


def partial_folders(layout: Layout) -> Iterator[Path]:
    """The folders that interrupted builds have left."""
    yield from sorted(folder for folder in layout.partial.glob("*") if _DIGEST.fullmatch(folder.name))


def drop_partial(layout: Layout, older_than_seconds: float) -> None:
    """Remove what interrupted builds left that long ago, unless the key is being built again."""
    for folder in partial_folders(layout):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime >= older_than_seconds:
                with try_locked(layout.key_lock(folder.name)) as unbuilt:
                    if unbuilt:
                        shutil.rmtree(folder, ignore_errors=True)


def sweep(layout: Layout) -> None:
    """Remove the work folders of processes that have ended, as far as possible.

    Only folders named and locked as :func:`scratch` does it are touched.
    """
    with suppress(OSError):
        for lock in layout.tmp.glob("*.lock"):
            if _SCRATCH.fullmatch(lock.stem):
                with suppress(BlockingIOError):  # its owner is running
                    _discard(lock.with_suffix(""), acquire(lock, wait=False))
    drop_partial(layout, _PARTIAL_SECONDS)


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _discard(folder: Path, handle: int) -> None:
    """Remove a work folder, then its lock; a folder that cannot be removed keeps its lock's file for a later sweep."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        os.close(handle)
    else:
        release(handle, _lock_of(folder))
