"""The files of a package, in a folder or one ``.tar``: nothing is handed out before its digest has been checked.

A file is read once, and the bytes that were checked are those that are used: what is changed on the disk in between is
never seen. Links, devices and folders inside a package are refused, and nothing is unpacked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from trtpipe.config.units import suggestion
from trtpipe.delivery.record import FINISHED, HANDOVER, MODEL, SIGNATURE, UNLISTED, WRITTEN, FileDigest, Model
from trtpipe.digest import canonical_json, sha256_bytes
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TAR = ".tar"
_CHUNK = 1 << 20
#: The most that is read of the index: bytes.
_MOST_INDEX = 8 << 20
_OTHER_ARCHIVE = ("packed by another program, or changed", "copy the archive again; or unpack it, and give the folder")
_HEX = re.compile(r"[0-9a-f]{64}")
_AGAIN = "copy the package again, or make it again with trtpipe package make"


class Decrypts(Protocol):
    """Keys that open encrypted files."""

    def decrypt(self, data: bytes, where: str, wanted: str) -> bytes:
        """What is inside.

        Args:
            where, wanted: the file, and whose key opens it, for errors.

        Raises:
            InputError: none of the keys opens it.
        """


class Package:
    """A package that was opened.

    Attributes:
        path: the folder or the ``.tar``.
        model: what its ``model.json`` says.
        index: the content of ``model.json``, as it was read.
    """

    def __init__(
        self,
        path: Path,
        files: Mapping[str, _Place],
        index: bytes,
        identities: Decrypts | None = None,
        archive: _Place | None = None,
    ) -> None:
        self.path = path
        self._identities = identities
        self._archive = archive
        self.index = index
        self.model = Model.parse(index, path / MODEL)
        self._files = files
        self._check_sizes()

    @classmethod
    def opened(cls, path: Path) -> Package:
        """Open a package, and see whether it is whole: every file there, of the size that ``model.json`` says.

        Raises:
            InputError: there is no package, it is cut short, of a newer schema, or damaged.
        """
        archive = _Place(path, path.stat().st_size) if path.suffix == TAR and path.is_file() else None
        return cls._opened(path, archive)

    @classmethod
    def _opened(cls, path: Path, archive: _Place | None, identities: Decrypts | None = None) -> Package:
        try:
            files = _in_folder(path) if archive is None else _in_tar(path, archive)
            if MODEL not in files:
                raise InputError(
                    f"{path}: no {MODEL}: not a package of trtpipe", "give what trtpipe package make wrote"
                )
            with files[MODEL].open() as stream:
                index = stream.read(min(files[MODEL].size, _MOST_INDEX + 1))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}", "give a package's folder or .tar") from error
        if len(index) > _MOST_INDEX:
            raise InputError(f"{path / MODEL}: larger than {_MOST_INDEX >> 20} MiB", "give the right file")
        return cls(path, files, index, identities, archive)

    def with_identities(self, identities: Decrypts | None) -> Package:
        """The same package, whose encrypted files are decrypted when they are read."""
        return Package(self.path, self._files, self.index, identities, self._archive)

    def member(self, name: str) -> Package:
        """One of the packages in this one; it hands out what the digests here vouch for, and nothing else.

        Raises:
            InputError: there is none of that name, it was changed, or is not whole.
        """
        known = {member.name: member for member in self.model.members}
        if name not in known:
            holds = suggestion(name, list(known), "it holds") if known else "it holds one model: leave the name out"
            raise InputError(f"{self.path}: holds no model {name!r}", holds)
        file = known[name].file
        found = self._opened(self.path / file, self._files[file], self._identities)
        if sha256_bytes(found.index) != known[name].index or found.model.members:
            raise InputError(f"{found.path}: not the package that {MODEL} lists", _AGAIN)
        return found

    @property
    def members(self) -> tuple[Package, ...]:
        """The packages in this one; none where it holds one model.

        Raises:
            InputError: as ``member``.
        """
        return tuple(self.member(member.name) for member in self.model.members)

    @property
    def names(self) -> frozenset[str]:
        """All files that are there, listed or not."""
        return frozenset(self._files)

    def unlisted(self, name: str) -> bytes | None:
        """The content of a file that ``model.json`` does not list, and so vouches for nothing; ``None``: not there.

        Raises:
            InputError: it cannot be read, or is larger than such files are.
        """
        if name not in self._files:
            return None
        try:
            with self._files[name].open() as stream:
                data = stream.read(min(self._files[name].size, _MOST_INDEX + 1))
        except OSError as error:
            raise InputError(f"{self.path / name}: cannot be read: {error.strerror}", _AGAIN) from error
        if len(data) > _MOST_INDEX:
            raise InputError(f"{self.path / name}: larger than {_MOST_INDEX >> 20} MiB", _AGAIN)
        return data

    def read(self, name: str) -> bytes:
        """The content of one listed file, decrypted in memory where it is encrypted.

        Raises:
            InputError: it is not what ``model.json`` says; or it is encrypted, and no identity is given, or none fits:
                the message names whose is wanted.
        """
        data = b"".join(self._checked(name))
        return self._decrypted(name, data) if self.model.is_encrypted(name) else data

    def copy(self, names: Iterable[str], folder: Path) -> None:
        """Write listed files into a private folder, and check what was written. For encrypted files that is a folder in
        memory.

        Raises:
            InputError: as ``read``.
        """
        for name in names:
            with (folder / name).open("xb") as copy:
                for chunk in [self.read(name)] if self.model.is_encrypted(name) else self._checked(name):
                    copy.write(chunk)

    def verify(self) -> None:
        """Check the content of every file, and that there are no others.

        Raises:
            InputError: a file was changed, added or removed.
        """
        for file in self.model.files:
            for _ in self._checked(file.name):
                pass
        for member in self.members:
            member.verify()
        self.check_complete()

    def check_complete(self) -> None:
        """Check that nothing is there that ``model.json`` does not list, and that an archive is byte for byte what
        trtpipe wrote but for the content of files, which is not read.

        Raises:
            InputError: a file was added.
        """
        if {HANDOVER, FINISHED} <= self.names:
            raise InputError(
                f"{self.path}: a hand-over that was finished, and no package yet",
                "make a package of it with trtpipe package make",
            )
        if added := sorted(self.names - UNLISTED - {file.name for file in self.model.files}):
            raise InputError(f"{self.path / added[0]}: not listed in {MODEL}: it was added later", _AGAIN)
        if (written := self.unlisted(WRITTEN)) is not None:
            index = FileDigest(MODEL, sha256_bytes(self.index), len(self.index))
            _check_written(written, self.path / WRITTEN, [*self.model.files, index])
        if self._archive is not None:
            _check_archive(self.path, self._archive, {name: place.size for name, place in self._files.items()})

    def _decrypted(self, name: str, data: bytes) -> bytes:
        assert self.model.encryption is not None
        where, wanted = str(self.path / name), " or ".join(self.model.encryption.recipients)
        if self._identities is None:
            raise InputError(f"{where}: encrypted to {wanted}", "give the file with that recipient's identity")
        plain = self._identities.decrypt(data, where, wanted)
        if sha256_bytes(plain) != self.model.content(name).sha256:
            raise InputError(f"{where}: what is inside is not what {MODEL} says", "have the package made again")
        return plain

    def _check_sizes(self) -> None:
        for file in self.model.files:
            if file.name not in self._files:
                raise InputError(f"{self.path}: {file.name} is missing: the package is cut short", _AGAIN)
            if (size := self._files[file.name].size) != file.size:
                word = "cut short" if size < file.size else "too long"
                raise InputError(f"{self.path / file.name}: {word}: {size} bytes, not {file.size}", _AGAIN)

    def _checked(self, name: str) -> Iterator[bytes]:
        """The content of a file in pieces; once all are read, it raises unless the digest is right."""
        wanted, digest = self.model.file(name), hashlib.sha256()
        left = wanted.size
        try:
            with self._files[name].open() as stream:
                while left and (chunk := stream.read(min(_CHUNK, left))):
                    digest.update(chunk)
                    left -= len(chunk)
                    yield chunk
        except OSError as error:
            raise InputError(f"{self.path / name}: cannot be read: {error.strerror}", _AGAIN) from error
        if digest.hexdigest() != wanted.sha256:
            raise InputError(f"{self.path / name}: changed since the package was made: its digest differs", _AGAIN)


class _Place:
    """Where the content of one file lies: in a file of its own, or in a part of a ``.tar``."""

    def __init__(self, path: Path, size: int, begin: int = 0) -> None:
        self._path = path
        self.begin = begin
        self.size = size

    def part(self, begin: int, size: int) -> _Place:
        """A part of it, from the byte ``begin`` of the whole file on."""
        return _Place(self._path, size, begin)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """A stream at the first byte. Readers count: what follows in a ``.tar`` is another file."""
        with os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            stream.seek(self.begin)
            yield stream


def in_order(names: Iterable[str]) -> list[str]:
    """Names as an archive has them: ``model.json`` first."""
    return sorted(names, key=lambda name: (name != MODEL, name))


def member(name: str, size: int) -> tarfile.TarInfo:
    """The header of one file of an archive: nothing but its name and size."""
    header = tarfile.TarInfo(name)
    header.size = size
    return header


def _check_written(data: bytes, path: Path, files: Iterable[FileDigest]) -> None:
    """Raise InputError unless ``.trtpipe.json``, with which trtpipe knows its own files again, speaks of these files
    and of a signature (which may be a later one) alone. Nobody signs it, so it may hold nothing else; the proof in it
    tells its user's trtpipe who wrote it.
    """
    known = {file.name: {"name": file.name, "sha256": file.sha256, "size": file.size} for file in files}
    whole = None
    try:
        document = json.loads(data)
        proof, listed = document["proof"], {each["name"]: each for each in document["content"]["files"]}
        later = listed.get(SIGNATURE, {"sha256": "0" * 64, "size": 0})
        known[SIGNATURE] = {"name": SIGNATURE, "sha256": later["sha256"], "size": later["size"]}
        if _HEX.fullmatch(proof) and _HEX.fullmatch(later["sha256"]) and type(later["size"]) is int:
            content = {"files": [known[name] for name in sorted(listed)], "leaving": []}
            digest = sha256_bytes(canonical_json(content).encode())
            whole = (canonical_json({"content": content, "proof": proof, "sha256": digest}) + "\n").encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    if whole != data:
        raise InputError(
            f"{path}: not the list of the files that trtpipe wrote here", "remove it: it is no part of the package"
        )


def _check_archive(path: Path, archive: _Place, sizes: Mapping[str, int]) -> None:
    """Raise InputError unless all that lies between the contents of files is as ``Assembly.write_tar`` writes it."""
    at = 0
    with archive.open() as stream:
        for name in in_order(sizes):
            head = member(name, sizes[name]).tobuf(tarfile.PAX_FORMAT)
            stream.seek(archive.begin + at)
            right = stream.read(len(head)) == head
            end = at + len(head) + sizes[name]
            at = end + -end % tarfile.BLOCKSIZE
            stream.seek(archive.begin + end)
            if not right or any(stream.read(at - end)):
                raise InputError(f"{path}: {name}: not as trtpipe wrote it: {_OTHER_ARCHIVE[0]}", _OTHER_ARCHIVE[1])
        rest = stream.read(min(tarfile.RECORDSIZE * 2, max(archive.size - at, 0)))
    whole = at + 2 * tarfile.BLOCKSIZE
    whole += -whole % tarfile.RECORDSIZE
    if at + len(rest) != whole or any(rest):
        raise InputError(f"{path}: its end is not as trtpipe wrote it: {_OTHER_ARCHIVE[0]}", _OTHER_ARCHIVE[1])


def _in_folder(path: Path) -> dict[str, _Place]:
    if not path.is_dir():
        raise InputError(f"{path}: no package: neither a folder nor a {TAR}", "give what trtpipe package make wrote")
    found = {}
    with os.scandir(path) as entries:
        for entry in entries:
            if not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                raise InputError(f"{path / entry.name}: not a plain file, and a package holds nothing else", _AGAIN)
            found[entry.name] = _Place(Path(entry.path), entry.stat(follow_symlinks=False).st_size)
    return found


def _in_tar(path: Path, archive: _Place) -> dict[str, _Place]:
    found: dict[str, _Place] = {}
    end = archive.begin + archive.size
    try:
        with archive.open() as stream, tarfile.open(fileobj=stream, mode="r:") as entries:
            for entry in entries:
                if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.name in found:
                    raise InputError(f"{path}: {entry.name}: not a plain file, or there twice", _AGAIN)
                if entry.offset_data + entry.size > end:
                    raise InputError(f"{path}: {entry.name}: cut short", _AGAIN)
                found[entry.name] = archive.part(entry.offset_data, entry.size)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path}: not a {TAR} as trtpipe writes it, or cut short: {error}", _AGAIN) from error
    return found
