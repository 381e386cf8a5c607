"""Reading ``.npz`` files without loading them: headers first, then row by row, never a pickle."""

from __future__ import annotations

import io
import math
import os
import tokenize
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from trtpipe.config.units import format_bytes
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from pathlib import Path

_MAX_BLOCK = 4 << 30

#: What numpy, zipfile and zlib are known to raise on damaged files.
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Header:
    """The header of an array in a file: type, shape and order of the values, and its own length in bytes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    length: int


@dataclass(frozen=True)
class Member:
    """One array of an ``.npz`` file, known by its header; the values stay on disk under ``entry`` in the zip."""

    path: Path
    entry: str
    header: Header

    @property
    def shape(self) -> tuple[int, ...]:
        return self.header.shape

    def rows(self, indices: Iterable[int]) -> Generator[np.ndarray, None, None]:
        """Yield the array's rows at ``indices`` (ascending), holding one at a time.

        An array in column-major order is loaded whole: its rows are not contiguous.

        Raises:
            InputError: the file is damaged.
        """
        if self.header.fortran:
            whole = self.load()
            yield from (whole[index, ...] for index in indices)
            return
        size = self.header.dtype.itemsize * math.prod(self.shape[1:])
        with reading(self.path), opened(self.path) as archive, archive.open(self.entry) as stream:
            for index in indices:
                stream.seek(self.header.length + index * size)
                yield self._array(stream, size, self.shape[1:])

    def load(self) -> np.ndarray:
        """The whole array; raises what ``rows`` raises."""
        size = self.header.dtype.itemsize * math.prod(self.shape)
        with reading(self.path), opened(self.path) as archive, archive.open(self.entry) as stream:
            stream.seek(self.header.length)
            flat = self._array(stream, size, (math.prod(self.shape),))
        return flat.reshape(self.shape, order="F" if self.header.fortran else "C")

    def _array(self, stream: IO[bytes], size: int, shape: tuple[int, ...]) -> np.ndarray:
        if size > _MAX_BLOCK:
            raise InputError(
                f"{self.path}: one piece of array {self.entry!r} takes {format_bytes(size)}",
                "store the samples along the first axis",
            )
        data = stream.read(size)
        if len(data) != size:
            raise EOFError(f"array {self.entry!r} ends early")
        return np.frombuffer(data, self.header.dtype).reshape(shape)


class _ErrorRecorder(io.FileIO):
    """Records a disk error, which zipfile reports as a file that is no zip."""

    error: OSError | None = None

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = error
            raise

    def readinto(self, buffer: Any, /) -> int | None:
        with self._recording():
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with self._recording():
            return super().readall()

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        with self._recording():
            return super().seek(offset, whence)

    def tell(self) -> int:
        with self._recording():
            return super().tell()


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip file at ``path``, open for reading.

    Raises:
        BadZipFile: it is not a zip file.
        OSError: it cannot be read.
    """
    raw = _ErrorRecorder(path)
    with io.BufferedReader(raw) as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except zipfile.BadZipFile as error:
            raise raw.error or error from error
        with archive:
            yield archive


def read_members(path: Path) -> dict[str, Member]:
    """The arrays of an ``.npz`` file by name. Only headers are read.

    Raises:
        InputError: not such a file, damaged, or it holds other things than arrays of numbers.
    """
    members: dict[str, Member] = {}
    with reading(path), opened(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in members:
                raise InputError(f"{path}: holds array {name!r} twice", "write the file again with numpy.savez")
            with archive.open(info) as stream:
                members[name] = _member(path, info, stream)
    return members


@contextmanager
def reading(
    path: Path, damage: tuple[type[Exception], ...] = _DAMAGE, remedy: str = "write the file again with numpy"
) -> Iterator[None]:
    """Turn every error of a damaged file into an InputError that names the file."""
    try:
        yield
    except damage as error:
        raise InputError(f"{path}: cannot be read: {error}", remedy) from error


def read_header(stream: IO[bytes], size: int, where: str) -> Header:
    """Read the header of an array in numpy's file format.

    Args:
        stream: at the header.
        size: bytes of header and values together; a header that says otherwise is refused.
        where: file and array, for error messages.

    Raises:
        InputError: the array does not hold numbers.
        ValueError: damaged.
    """
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"format version {version}")
    if dtype.hasobject:
        raise InputError(f"{where} holds Python objects", "store plain numbers: objects need pickle, which is unsafe")
    if dtype.kind not in "biuf":
        raise InputError(f"{where} has type {dtype}", "store numbers")
    if min(shape, default=0) < 0 or size != stream.tell() + dtype.itemsize * math.prod(shape):
        raise ValueError("its size does not match its header")
    return Header(dtype, shape, fortran and len(shape) > 1, stream.tell())


def _member(path: Path, info: zipfile.ZipInfo, stream: IO[bytes]) -> Member:
    name = info.filename.removesuffix(".npy")
    try:
        header = read_header(stream, info.file_size, f"{path}: array {name!r}")
    except ValueError as error:
        raise ValueError(f"array {name!r}: {error}") from error
    return Member(path, info.filename, header)
