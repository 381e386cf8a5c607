"""Files that decide whom trtpipe trusts, and files that hold secrets: read only where others cannot touch them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES = 1 << 20
_OTHERS_MAY, _OTHERS_WRITE = 0o077, 0o022


def read_secret(path: Path, what: str) -> bytes:
    """The content of a file that only its owner may read, such as a private key.

    Args:
        what: what it holds, for errors. The content itself is never in one.

    Raises:
        InputError: it cannot be read, is no plain file or too large, or others may read or write it.
    """
    return _read(path, what, _OTHERS_MAY, "read it", "600")


def read_trusted(path: Path, what: str) -> bytes:
    """The content of a file that anybody may read and only its owner may write, such as a policy or a public key.

    Raises:
        InputError: it cannot be read, is no plain file or too large, or others may write it.
    """
    return _read(path, what, _OTHERS_WRITE, "write it", "go-w")


def _read(path: Path, what: str, forbidden: int, can: str, mode: str) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: not a file", f"give {what}")
            if status.st_mode & forbidden:
                raise InputError(
                    f"{path}: others can {can} (mode {stat.S_IMODE(status.st_mode):04o}), and it is to be {what}",
                    f"chmod {mode} {path}",
                )
            if os.geteuid() not in (0, status.st_uid) and status.st_uid:
                raise InputError(f"{path}: belongs to another user (uid {status.st_uid})", "give a file of your own")
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", f"give {what}") from error
    if len(content) > _MOST_BYTES:
        raise InputError(f"{path}: larger than {_MOST_BYTES >> 20} MiB", f"give {what}")
    return content
