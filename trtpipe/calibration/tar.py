"""Tar files as plain data: members are read in a stream and never extracted; nothing but regular files is accepted."""

from __future__ import annotations

import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

#: Bytes a single member may have.
MOST_BYTES = 1 << 30

_DAMAGE = (OSError, EOFError, ValueError, tarfile.TarError)


@dataclass(frozen=True)
class TarEntry:
    """One regular file of a tar.

    Attributes:
        key: its path up to the first dot of its name: files of one sample have the same.
        extension: what follows that dot, in lower case.
        content: its bytes; empty while only headers are read.
    """

    key: str
    extension: str
    content: bytes


def read_tar(path: Path, wanted: frozenset[str] | None) -> Generator[TarEntry, None, None]:
    """The files of an uncompressed tar, in its order, one in memory at a time.

    Args:
        wanted: keys whose content is read, the others are passed over; ``None`` for headers only.

    Raises:
        InputError: the tar is damaged or compressed, or holds a link, a device, or a name that leads outside.
    """
    with _reading(path), tarfile.open(path, "r:") as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # the reader would keep every header of a shard with a million files
            if member.isdir():
                continue
            name = _safe_name(member, path)
            stem, _, extension = name.name.partition(".")
            key = str(name.with_name(stem)) if stem else str(name)
            content = b""
            if wanted is not None:
                if key not in wanted:
                    continue
                stream = archive.extractfile(member)
                content = stream.read(member.size) if stream is not None else b""
                if len(content) != member.size:
                    raise EOFError(f"{member.name!r} ends early")
            yield TarEntry(key, extension.lower(), content)


def _safe_name(member: tarfile.TarInfo, path: Path) -> PurePosixPath:
    name = PurePosixPath(member.name)
    where = f"{path}: member {member.name!r}"
    if not member.isreg() or member.issparse():
        raise InputError(f"{where} is not a regular file", "pack plain files only: no links, devices or sparse files")
    if name.is_absolute() or ".." in name.parts or not name.name:
        raise InputError(f"{where} leads outside the archive", "pack files under relative names without '..'")
    if member.size > MOST_BYTES:
        raise InputError(f"{where} has {member.size} bytes, more than a sample may have", "store smaller samples")
    return name


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise InputError(f"{path}: cannot be read: {error}", "give uncompressed tar files") from error
