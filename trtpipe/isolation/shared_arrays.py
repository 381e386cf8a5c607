"""Arrays in memory that two processes share: names, types and places travel as JSON, the numbers not at all."""

from __future__ import annotations

import math
import mmap
import os
import socket
import struct
import tempfile
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.artifact import Feed

#: name, numpy's name of the type, shape, and where the numbers lie in bytes; strings travel as they are.
Parcel: TypeAlias = tuple[str, str, tuple[int, ...], int | tuple[str, ...]]

_ALIGNED = 64
_TEXT = "OSU"
_LENGTH = struct.Struct("=Q")


class Arena:
    """A piece of shared memory behind a file handle. One side packs and the other unpacks, in turns.

    Args:
        handle: of an anonymous file; this object closes it.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._memory: mmap.mmap | None = None

    @classmethod
    def new(cls) -> Arena:
        """An empty one, which can grow but never shrink: nobody is left with memory that is no more.

        Raises:
            OSError: there are too many open files.
        """
        return cls(_anonymous())

    def fileno(self) -> int:
        """The handle, for the other process."""
        return self._handle

    def close(self) -> None:
        """Give the handle back; arrays that still lie here keep their memory."""
        self._memory = None
        os.close(self._handle)

    def pack(self, feeds: Sequence[Feed]) -> list[list[Parcel]]:
        """Lay arrays down, over whatever lay here before.

        Raises:
            OSError: there is no memory left.
        """
        sizes = [
            0 if value.dtype.kind in _TEXT else -(-value.nbytes // _ALIGNED) * _ALIGNED
            for feed in feeds
            for value in feed.values()
        ]
        self._reach(sum(sizes), grow=True)
        places = accumulate(sizes, initial=0)
        return [[self._lay(name, value, next(places)) for name, value in feed.items()] for feed in feeds]

    def _lay(self, name: str, value: np.ndarray, place: int) -> Parcel:
        if value.dtype.kind in _TEXT:
            return name, "str", value.shape, tuple(map(str, value.ravel()))
        self._at(place, value.dtype, value.shape)[...] = value
        return name, value.dtype.name, value.shape, place

    def unpack(self, parcels: list[Parcel], *, copy: bool) -> Feed:
        """What was laid down.

        Args:
            copy: give copies; otherwise the arrays are good until somebody packs again.

        Raises:
            ValueError, TypeError: the other side told nonsense.
        """
        found: Feed = {}
        for name, kind, shape, place in parcels:
            if not isinstance(place, int):
                found[name] = np.array(place, object).reshape(shape)
                continue
            dtype = _dtype(kind)
            self._reach(place + math.prod(shape) * dtype.itemsize, grow=False)
            values = self._at(place, dtype, shape)
            found[name] = values.copy() if copy else values
        return found

    def _at(self, place: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        count = math.prod(shape)
        if not count or self._memory is None:
            return np.empty(shape, dtype)
        return np.frombuffer(self._memory, dtype, count, place).reshape(shape)

    def _reach(self, size: int, *, grow: bool) -> None:
        """Map at least ``size`` bytes."""
        if size <= (0 if self._memory is None else len(self._memory)):
            return
        there = os.fstat(self._handle).st_size
        if grow and there < size:
            there = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
            os.ftruncate(self._handle, there)
        self._memory = mmap.mmap(self._handle, there)


class Letters:
    """Messages over a stream between two processes: a length, then so many bytes.

    Args:
        most: bytes that a message may have.
    """

    def __init__(self, stream: socket.socket, most: int = 1 << 28) -> None:
        self._stream = stream
        self._most = most
        self._came = bytearray()

    def send(self, letter: bytes) -> None:
        """Raises OSError where nobody listens any more."""
        self._stream.sendall(_LENGTH.pack(len(letter)) + letter)

    def take(self) -> bytes | None:
        """The next message, or ``None`` where only a part of it is there. Waits for something to come.

        Raises:
            EOFError: the other side has ended, or sends what is no message.
        """
        data = self._stream.recv(1 << 16)
        self._came += data
        size = _LENGTH.unpack_from(self._came)[0] if len(self._came) >= _LENGTH.size else 0
        if not data or size > self._most:
            raise EOFError
        end = _LENGTH.size + size
        if len(self._came) < max(end, _LENGTH.size + 1):
            return None
        letter = bytes(self._came[_LENGTH.size : end])
        del self._came[:end]
        return letter

    def wait(self) -> bytes:
        """The next message.

        Raises:
            EOFError: as for ``take``.
        """
        while (letter := self.take()) is None:
            pass
        return letter


def _dtype(name: str) -> np.dtype:
    import ml_dtypes  # noqa: F401 - teaches numpy the names of the small float types

    return np.dtype(name)


def _anonymous() -> int:
    """A file without a name, in memory where the system has such files."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    import fcntl

    handle = os.memfd_create("trtpipe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return handle
