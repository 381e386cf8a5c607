"""Private work folders on the store's file system, and the removal of those whose owner was killed."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from trtpipe.store.layout import try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.store.layout import Layout

_NAME = re.compile(r"[0-9a-f]{16}")


@contextmanager
def scratch(layout: Layout, doing: str) -> Iterator[Path]:
    """A new empty folder, locked while it is in use and removed afterwards, whatever happened.

    Raises:
        EnvironmentLacks: it cannot be made; the message says that ``doing`` was not possible.
    """
    folder = layout.tmp / secrets.token_hex(8)
    lock = _lock_of(folder)
    try:
        with layout.translate(doing):
            layout.create()
            with layout.removal_lock():  # a sweep must not see the folder before it is locked
                lock.acquire(blocking=False)
                folder.mkdir(mode=0o700)
        yield folder
    finally:
        with layout.translate(doing):
            _discard(folder)
            lock.release()


def sweep(layout: Layout) -> None:
    """Remove the work folders of processes that are gone. A courtesy: what cannot be removed now stays.

    Only what is named and locked as :func:`scratch` does it is touched, whatever else the user keeps there.
    """
    with suppress(OSError):
        locks = [path for path in layout.tmp.glob("*.lock") if _NAME.fullmatch(path.stem)]
        if not locks:
            return
        with try_lock(layout.removal_lock()) as ours:
            for folder in (path.with_suffix("") for path in locks if ours):
                with try_lock(_lock_of(folder)) as orphaned:
                    if orphaned:
                        _discard(folder)


def _lock_of(folder: Path) -> FileLock:
    return FileLock(f"{folder}.lock")


def _discard(folder: Path) -> None:
    """Remove a work folder, then its lock file. What resists is left to a later sweep, so the lock stays too."""
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        with suppress(OSError):
            Path(f"{folder}.lock").unlink()
