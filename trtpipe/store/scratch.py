"""Private work folders on the store's file system, and the removal of those whose owner was killed."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.store.locks import acquire, release

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


def sweep(layout: Layout) -> None:
    """Remove the work folders of processes that are gone. A courtesy: what cannot be removed now stays.

    Only what is named and locked as :func:`scratch` does it is touched, whatever else the user keeps there.
    """
    with suppress(OSError):
        for lock in layout.tmp.glob("*.lock"):
            if _NAME.fullmatch(lock.stem):
                with suppress(BlockingIOError):  # its owner is alive
                    _discard(lock.with_suffix(""), acquire(lock, wait=False))


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _discard(folder: Path, handle: int) -> None:
    """Remove a work folder, then its lock. What resists is left to a later sweep, and so keeps its lock's file."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        os.close(handle)
    else:
        release(handle, _lock_of(folder))
