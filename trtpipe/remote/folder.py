"""A folder as a bucket: a disk that several machines mount, or one machine's own."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.config.os_errors import translate_os_errors
from trtpipe.durable import copy_new, sync_folder, write_new
from trtpipe.errors import HostError
from trtpipe.remote.bucket import Blob, Bucket, Denied, Listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNK = 1 << 20
#: Names of ours that are no objects.
_LOCK, _PART = ".lock", ".part-"


class FolderBucket(Bucket):
    """Objects as files below ``root``, which is made when something is first written."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def url(self) -> str:
        return f"file://{self._root}"

    def get(self, name: str, limit: int) -> Blob | None:
        with self._translated("read"), suppress(FileNotFoundError), (self._root / name).open("rb") as stream:
            data, status = stream.read(limit + 1), os.fstat(stream.fileno())
            return None if len(data) > limit else Blob(data, _tag(status), status.st_mtime)
        return None

    def head(self, name: str) -> Listed | None:
        with self._translated("read"), suppress(FileNotFoundError):
            status = (self._root / name).stat()
            return Listed(name, status.st_size, status.st_mtime)
        return None

    def download(self, name: str, path: Path | None, limit: int) -> str | None:
        with self._translated("read"):
            try:
                source = (self._root / name).open("rb")
            except FileNotFoundError:
                return None
            with source, writer(path) as write:
                digest, left = hashlib.sha256(), limit
                while left > 0 and (chunk := source.read(min(left, _CHUNK))):
                    left -= len(chunk)
                    digest.update(chunk)
                    write(chunk)
        return digest.hexdigest()

    def put(self, name: str, data: bytes) -> None:
        with self._translated("write"), self._part(name) as part:
            write_new(part, data, 0o644)
            part.replace(self._root / name)

    def upload(self, name: str, path: Path) -> None:
        with self._translated("write"), self._part(name) as part:
            copy_new(path, part, 0o644)
            part.replace(self._root / name)

    def create(self, name: str, data: bytes) -> str | None:
        with self._translated("write"), self._locked(), self._part(name) as part:
            write_new(part, data, 0o644)
            try:
                os.link(part, self._root / name)
            except FileExistsError:
                return None
            return _tag(part.stat())

    def replace(self, name: str, data: bytes, tag: str) -> str | None:
        with self._translated("write"), self._locked(), self._part(name) as part:
            try:
                if _tag((self._root / name).stat()) != tag:
                    return None
            except FileNotFoundError:
                return None
            write_new(part, data, 0o644)
            part.replace(self._root / name)
            return _tag((self._root / name).stat())

    def delete(self, name: str) -> None:
        with self._translated("write"), self._locked(), suppress(FileNotFoundError):
            (self._root / name).unlink()

    def list(self, prefix: str) -> Iterator[Listed]:
        with self._translated("read"):
            for folder, _, names in os.walk(self._root / prefix):
                for name in sorted(names):
                    path = Path(folder, name)
                    if not name.startswith((_PART, _LOCK)):
                        with suppress(FileNotFoundError):
                            status = path.lstat()
                            yield Listed(str(path.relative_to(self._root)), status.st_size, status.st_mtime)

    def now(self) -> float:
        with self._translated("write"), self._part("clock") as part:
            write_new(part, b"")
            return part.stat().st_mtime

    @contextmanager
    def _part(self, name: str) -> Iterator[Path]:
        """A new name beside an object's, which is gone afterwards; what replaced the object is flushed."""
        folder = (self._root / name).parent
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{_PART}{secrets.token_hex(8)}"
        try:
            yield part
            sync_folder(folder)
        finally:
            with suppress(FileNotFoundError):
                part.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Writes with a condition, one at a time."""
        self._root.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        with translate_os_errors(self._root, f"{doing} the shared store", elsewhere="choose another store"):
            try:
                yield
            except FileExistsError as error:
                raise HostError(f"the shared store {self.url} is a file, or in one", "choose a folder") from error
            except FileNotFoundError as error:
                raise HostError(f"the shared store {self.url} cannot be made there", "choose another folder") from error
            except PermissionError as error:
                raise Denied(f"the shared store {self.url} may not be {_PAST[doing]} by this user", _ASK) from error


_PAST = {"read": "read", "write": "written"}
_ASK = "correct its owner or mode, or choose another store"


@contextmanager
def writer(path: Path | None) -> Iterator[Callable[[bytes], object]]:
    """Writes to a new, read-only file that is flushed at the end; to nothing where there is no path."""
    if path is None:
        yield lambda chunk: None
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        yield stream.write
        stream.flush()
        os.fchmod(handle, 0o444)
        os.fsync(handle)


def _tag(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"
