"""Work folders on the store's file system: private ones, and such as an interrupted build leaves to the next one."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.store.locks import acquire, release, try_locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.store.layout import Layout

_NAME = re.compile(r"[0-9a-f]{16}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

#: What was interrupted and not taken up again for so long is forgotten: a week.
_FORGET_SECONDS = 7 * 24 * 3600.0


@contextmanager
def scratch(layout: Layout, doing: str) -> Iterator[Path]:
    """A new empty folder, locked while it is in use and removed afterwards, whatever happened.

    Raises:
        HostError: it cannot be made; the message says that ``doing`` was not possible.
    """
    folder = layout.tmp / secrets.token_hex(8)
    with layout.translate(doing):
        layout.create()
        handle = acquire(_lock_of(folder))  # before the folder is there, so that no sweep ever sees it unlocked
    try:
        with layout.translate(doing):
            folder.mkdir(mode=0o700)
        yield folder
    finally:
        with layout.translate(doing):
            _discard(folder, handle)


@contextmanager
def resumable(layout: Layout, digest: str, doing: str) -> Iterator[Path]:
    """The work folder of the one builder of a key, which must hold its lock. It is empty, or holds what a build of the
    very same key left that was killed or interrupted. An end of any other kind, good or bad, removes it.

    Raises:
        HostError: it cannot be made; the message says that ``doing`` was not possible.
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
    """Everything that interrupted builds have left."""
    yield from sorted(folder for folder in layout.partial.glob("*") if _DIGEST.fullmatch(folder.name))


def drop_partial(layout: Layout, older_than_seconds: float) -> None:
    """Remove what interrupted builds left that long ago, and nobody is building again."""
    for folder in partial_folders(layout):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime >= older_than_seconds:
                with try_locked(layout.key_lock(folder.name)) as unbuilt:
                    if unbuilt:
                        shutil.rmtree(folder, ignore_errors=True)


def sweep(layout: Layout) -> None:
    """Remove the work folders of processes that are gone. A courtesy: what cannot be removed now stays.

    Only what is named and locked as :func:`scratch` does it is touched, whatever else the user keeps there.
    """
    with suppress(OSError):
        for lock in layout.tmp.glob("*.lock"):
            if _NAME.fullmatch(lock.stem):
                with suppress(BlockingIOError):  # its owner is alive
                    _discard(lock.with_suffix(""), acquire(lock, wait=False))
    drop_partial(layout, _FORGET_SECONDS)


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _discard(folder: Path, handle: int) -> None:
    """Remove a work folder, then its lock. What resists is left to a later sweep, and so keeps its lock's file."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        os.close(handle)
    else:
        release(handle, _lock_of(folder))
