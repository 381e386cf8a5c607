"""Locks between processes: ``flock`` and nothing else, so that the kernel frees what a killed process held.

A lock is a file that its holder removes at the end. Whoever gets the lock therefore checks that the file still has its
name, and otherwise begins anew: of two processes only one can hold the file that is there.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_POLL_SECONDS = 0.02


def acquire(path: Path, *, wait: bool = True) -> int:
    """A handle that holds the lock ``path`` alone; see :func:`release`.

    Raises:
        BlockingIOError: somebody else holds it, and ``wait`` is false.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if is_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def release(handle: int, path: Path) -> None:
    """Give the lock back. Its file goes too, where it can; one that stays does no harm."""
    with suppress(OSError):
        path.unlink()
    os.close(handle)


@contextmanager
def locked(path: Path, patience: float = 0, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock, after waiting for as long as it takes; ``waiting`` is called once after ``patience`` seconds."""
    end = time.monotonic() + patience
    handle = None
    while handle is None:
        try:
            handle = acquire(path, wait=waiting is None)
        except BlockingIOError:
            time.sleep(_POLL_SECONDS)
            if waiting is not None and time.monotonic() > end:
                waiting()
                waiting = None
    try:
        yield
    finally:
        release(handle, path)


@contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Hold the lock if nobody else does; yields whether that worked."""
    try:
        handle = acquire(path, wait=False)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        release(handle, path)


def share(handle: int) -> None:
    """Join the readers of an open file; ends when the handle is closed, at the latest with the process."""
    fcntl.flock(handle, fcntl.LOCK_SH)


def claim(handle: int) -> bool:
    """Become the only holder of an open file, unless it has readers: then ``False``."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(handle: int, path: Path) -> bool:
    """Whether ``path`` still names the open file."""
    try:
        there = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return os.path.samestat(os.fstat(handle), there)
