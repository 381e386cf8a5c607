"""Files that survive a crash, and locks between processes.

Writes are durable; reads accept nothing but plain files of this user. Locks are ``flock``, so that the kernel releases
those of a killed process. A lock's file is removed by its holder; the next holder therefore checks that the
file still has its name, and otherwise tries again: only one process can hold the file that exists.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from trtpipe.durable import sync_folder
from trtpipe.errors import InternalError, StoreCorrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_POLL_SECONDS = 0.02

#: Errors of opening something other than a readable plain file. Any other error (no handles left, a failing disk)
#: says nothing about the content, so the entry is kept.
_NOT_PLAIN = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO, errno.EACCES}


def corrupt(message: str) -> StoreCorrupt:
    """The error for content that cannot be trusted."""
    return StoreCorrupt(message, "build again; `trtpipe cache verify` checks the rest")


def make_folder(path: Path) -> None:
    """Create ``path`` and its parents with mode 0700, durably: each new name is synced in its parent."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with suppress(FileExistsError):  # another process was faster
        path.mkdir(mode=0o700)
    sync_folder(path.parent)


def take(source: Path, destination: Path, *, move: bool) -> None:
    """Copy or move a stage's file to ``destination``, read-only and flushed to the disk.

    Args:
        move: rename instead of copying; only for files on the same file system without other links.

    Raises:
        InternalError: ``source`` is missing or not a plain file.
    """
    try:
        status = os.lstat(source)
    except FileNotFoundError as error:
        raise InternalError(f"a stage listed {source.name} and did not write it") from error
    if not stat.S_ISREG(status.st_mode):
        raise InternalError(f"a stage made {source.name}, which is not a plain file")
    if move and status.st_nlink == 1:  # a second link could change the content later
        source.rename(destination)
    else:
        shutil.copyfile(source, destination, follow_symlinks=False)
    handle = os.open(destination, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fchmod(handle, 0o444)
        os.fsync(handle)
    finally:
        os.close(handle)


def open_plain(path: Path, flags: int = os.O_RDONLY) -> int:
    """A handle on a plain file of our own. Follows no link and never blocks on a pipe or a device.

    Raises:
        StoreCorrupt: it is something else, or missing.
        OSError: the machine cannot open files at the moment.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _NOT_PLAIN:
            raise corrupt(f"{path}: {os.strerror(error.errno)}") from error
        raise
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
        return handle
    os.close(handle)
    raise corrupt(f"{path}: not a plain file of this user")


def read_plain(path: Path, limit: int) -> bytes:
    """The content of a small plain file of our own.

    Raises:
        StoreCorrupt: not such a file, or larger than ``limit`` bytes.
    """
    with os.fdopen(open_plain(path), "rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise corrupt(f"{path}: larger than {limit} bytes")
    return data


def names_in(folder: Path) -> set[str]:
    """The names in a folder of our own.

    Raises:
        StoreCorrupt: it is missing, a link, not a folder, or belongs to another user.
    """
    try:
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise corrupt(f"{folder}: not a folder of this user")
        return set(os.listdir(folder))  # noqa: PTH208
    except OSError as error:
        if error.errno in _NOT_PLAIN:
            raise corrupt(f"{folder}: {os.strerror(error.errno)}") from error
        raise


def acquire(path: Path, *, wait: bool = True) -> int:
    """A handle that holds the lock ``path`` alone; see :func:`release`.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is false.
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
    """Release the lock and remove its file; a file that cannot be removed is left."""
    with suppress(OSError):
        path.unlink()
    os.close(handle)


@contextmanager
def locked(path: Path, patience: float = 0, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock, after waiting for it without limit; ``waiting`` is called once after ``patience`` seconds."""
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
    """Hold the lock if no other process does; yields whether that succeeded."""
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
    """Hold a shared lock on an open file, until the handle is closed or the process ends."""
    fcntl.flock(handle, fcntl.LOCK_SH)


def claim(handle: int) -> bool:
    """Lock an open file exclusively; ``False`` if others hold a shared lock."""
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
