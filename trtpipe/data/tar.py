"""Tar files as plain data: members are read in a stream and never extracted; nothing but regular files is accepted."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

#: Names of tar files, in lower case; those from the second on are compressed.
SUFFIXES = (".tar", ".tar.gz", ".tgz")

#: Bytes a single member may have.
MOST_BYTES = 1 << 30
#: Bytes the description of a member may have: names longer than that are no names.
_MOST_HEADER = 1 << 20

_DESCRIPTIONS = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    }
)

_DAMAGE = (OSError, EOFError, ValueError, tarfile.TarError, zlib.error)


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
    """The files of a tar, plain or gzipped, in its order, one in memory at a time; nothing is unpacked to the disk.

    Args:
        wanted: keys whose content is read, the others are passed over; ``None`` for headers only.

    Raises:
        InputError: the tar is damaged or compressed otherwise, or holds a link, a device, or a name that leads outside.
    """
    with _reading(path), _opened(path) as archive:
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


class _Bounded(tarfile.TarInfo):
    """A member whose description is not taken into memory at any length: a small gzip can hold gigabytes of it."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _DESCRIPTIONS and self.size > _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        # made to be overridden, as its documentation says
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    with ExitStack() as stack:
        if path.name.lower().endswith(SUFFIXES[1:]):
            stream = stack.enter_context(gzip.open(path, "rb"))
            yield stack.enter_context(tarfile.open(fileobj=stream, mode="r|", tarinfo=_Bounded))
        else:
            yield stack.enter_context(tarfile.open(path, "r:", tarinfo=_Bounded))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise InputError(
            f"{path}: cannot be read: {error}", "give tar files, plain or compressed with gzip (.tar.gz)"
        ) from error
