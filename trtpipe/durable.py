"""Files that are there whole or not at all: how everything that trtpipe writes for a user, or keeps, reaches the disk;
and files that are read up to a limit.

A file is written under a fresh name that nobody can know beforehand, never through a link, flushed, and then renamed
into its place. What lies in that place and is no plain file (a link, a device, a folder) is left alone.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def write_new(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a new file and flush it to the disk; its name is durable after :func:`sync_folder`.

    Raises:
        FileExistsError: there is something of that name, be it a link to nothing.
    """
    handle = os.open(path, _NEW, mode)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def copy_new(source: Path, path: Path, mode: int = 0o666) -> None:
    """As :func:`write_new`, with the content of another file."""
    with source.open("rb") as content, os.fdopen(os.open(path, _NEW, mode), "wb") as stream:
        shutil.copyfileobj(content, stream, 1 << 20)
        stream.flush()
        os.fsync(stream.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file, or replace one: a reader sees old or new, never half. The folder has to be there.

    Raises:
        InputError: what lies there is no plain file.
    """
    mode = plain_mode(path)
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        write_new(part, data, 0o666 if mode is None else mode)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)


def plain_mode(path: Path) -> int | None:
    """The permissions of the file that is about to be replaced; ``None`` if there is none.

    Raises:
        InputError: it is a link, a device, a pipe or a folder.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise InputError(f"{path}: {kind}, where a file is to be written", "choose another name")
    return stat.S_IMODE(mode)


def read_bounded(path: Path, limit: int) -> bytes:
    """The content of a plain file; nothing beyond ``limit`` bytes is read, and no pipe or device is waited for.

    Raises:
        InputError: it is something else, or larger.
        OSError: it cannot be read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise InputError(f"{path}: not a plain file", "give an existing file")
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"{path}: larger than {limit >> 20} MiB, the most that is read", "give the right file")
    return data


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk, if the folder may be read and the file system supports it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)
