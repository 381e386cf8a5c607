"""Errors of the operating system, as errors that a user can act on."""

from __future__ import annotations

import errno
import resource
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trtpipe.config.units import format_bytes
from trtpipe.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = {errno.ENOSPC: "no space left", errno.EDQUOT: "disk quota used up"}
_HANDLES = {errno.EMFILE: "too many open files", errno.ENFILE: "too many open files on this machine"}
#: errno -> (what is wrong with the path, what to do unless another path is chosen)
_REFUSED = {
    errno.EACCES: ("no permission", "correct its owner or mode"),
    errno.EPERM: ("not permitted", "correct its owner or mode"),
    errno.EROFS: ("read-only file system", "make it writable"),
    errno.ENOTDIR: ("not a folder", "move the file out of the way"),
    errno.ENAMETOOLONG: ("name too long", "shorten it"),
    errno.EIO: ("input/output error", "check the disk"),
    errno.EFBIG: ("file too large", "raise the limit on the size of files (ulimit -f unlimited)"),
    errno.EXDEV: ("it lies on another file system", "move it"),
    errno.ELOOP: ("a link where none may be", "remove the link"),
    errno.ENOLCK: ("no file locks on this file system", "use a local disk"),
    errno.ENOSYS: ("not possible on this file system", "use a local disk"),
}


def address_space_limit() -> int | None:
    """The bytes that this process may map (``ulimit -v``); ``None`` for no limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def cannot_load(name: str, error: Exception, remedy: str) -> HostError:
    """The error for a library that is installed, and does not load."""
    limit = address_space_limit()
    if limit is None:
        return HostError(f"{name} cannot be loaded: {error}", remedy)
    return HostError(
        f"{name} cannot be loaded: the address space is limited to {format_bytes(limit)} (ulimit -v): {error}",
        "raise that limit: ulimit -v unlimited",
    )


@contextmanager
def translate_os_errors(
    path: Path, doing: str, *, needed: int | None = None, elsewhere: str = "choose another folder"
) -> Iterator[None]:
    """Turn a full disk, a missing permission, used-up file handles or a failing disk into HostError.

    Args:
        path: the file or folder worked on.
        doing: what could not be done, as it reads after "cannot": ``store the engine``.
        needed: bytes the work needs in all, where that is known.
        elsewhere: how to work in another place, as it reads after "or": ``choose another folder with --cache-dir``.

    Raises:
        HostError: for ENOSPC, EDQUOT, EACCES, EPERM, EROFS, ENOTDIR, ENAMETOOLONG, EMFILE, ENFILE, EIO, EFBIG,
            EXDEV, ELOOP, ENOLCK and ENOSYS. Any other OSError passes.
    """
    try:
        yield
    except OSError as error:
        code = error.errno
        if code in _FULL:
            message, remedy = (
                f"{_FULL[code]} in {path}{_shortage(path, needed)}",
                f"free some space there, or {elsewhere}",
            )
        elif code in _HANDLES:
            message, remedy = _HANDLES[code], "raise the limit (ulimit -n 4096) or run fewer jobs at a time"
        elif code in _REFUSED:
            reason, first = _REFUSED[code]
            where = error.filename if isinstance(error.filename, str) else path
            message, remedy = f"{reason}: {where}", f"{first}, or {elsewhere}"
        else:
            raise
        raise HostError(f"cannot {doing}: {message}", remedy) from error


def _shortage(path: Path, needed: int | None) -> str:
    if needed is None:
        return ""
    existing = next((folder for folder in (path, *path.parents) if folder.is_dir()), None)
    free = "" if existing is None else f", {format_bytes(shutil.disk_usage(existing).free)} free"
    return f" (needs {format_bytes(needed)}{free})"
