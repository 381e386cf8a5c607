"""Arrays in memory that two processes share: names, dtypes and offsets travel in messages, the values do not."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.artifact import Feed
    from trtpipe.isolation.messages import ArrayRef

_ALIGNMENT = 64
_STRING_KINDS = "OSU"


class SharedMemory:
    """Shared memory behind a file handle. One side packs and the other unpacks, in turns.

    Args:
        handle: of an anonymous file; this object closes it.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._memory: mmap.mmap | None = None

    @classmethod
    def new(cls) -> SharedMemory:
        """Empty shared memory that can grow but never shrink, so that no mapping loses its pages.

        Raises:
            OSError: there are too many open files.
        """
        return cls(_anonymous_file())

    def fileno(self) -> int:
        """The handle, for the other process."""
        return self._handle

    def close(self) -> None:
        """Close the handle; arrays that were unpacked without copying keep their memory."""
        self._memory = None
        os.close(self._handle)

    def pack(self, feeds: Sequence[Feed], offset: int = 0) -> list[list[ArrayRef]]:
        """Write arrays, over those packed before.

        Args:
            offset: of the first one, in bytes.

        Raises:
            OSError: there is no memory left.
        """
        sizes = _sizes(feeds)
        self._map(offset + sum(sizes), grow=True)
        offsets = accumulate(sizes, initial=offset)
        return [[self._write(name, value, next(offsets)) for name, value in feed.items()] for feed in feeds]

    def _write(self, name: str, value: np.ndarray, offset: int) -> ArrayRef:
        if value.dtype.kind in _STRING_KINDS:
            return name, "str", value.shape, tuple(map(str, value.ravel())), ()
        axes = _order(value)
        stored = value.transpose(axes)
        self._view(offset, value.dtype, stored.shape)[...] = stored
        return name, value.dtype.name, value.shape, offset, axes

    def unpack(self, arrays: list[ArrayRef], *, copy: bool) -> Feed:
        """The arrays that the other side packed.

        Args:
            copy: return copies; otherwise the arrays are valid until either side packs again.

        Raises:
            ValueError, TypeError: the message does not describe arrays.
        """
        found: Feed = {}
        for name, kind, shape, offset, axes in arrays:
            if not isinstance(offset, int):
                found[name] = np.array(offset, object).reshape(shape)
                continue
            dtype = _dtype(kind)
            self._map(offset + math.prod(shape) * dtype.itemsize, grow=False)
            if sorted(axes) != list(range(len(shape))):
                raise ValueError(f"{axes} are not the axes of {shape}")
            stored = self._view(offset, dtype, tuple(shape[axis] for axis in axes))
            values = stored.transpose(np.argsort(axes))
            found[name] = values.copy() if copy else values
        return found

    def _view(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        count = math.prod(shape)
        if not count or self._memory is None:
            return np.empty(shape, dtype)
        return np.frombuffer(self._memory, dtype, count, offset).reshape(shape)

    def _map(self, size: int, *, grow: bool) -> None:
        """Map at least ``size`` bytes."""
        if size <= (0 if self._memory is None else len(self._memory)):
            return
        length = os.fstat(self._handle).st_size
        if grow and length < size:
            length = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
            os.ftruncate(self._handle, length)
        self._memory = mmap.mmap(self._handle, length)


def packed_size(feeds: Sequence[Feed]) -> int:
    """Bytes that the arrays take in shared memory."""
    return sum(_sizes(feeds))


def _sizes(feeds: Sequence[Feed]) -> list[int]:
    return [
        0 if value.dtype.kind in _STRING_KINDS else -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
        for feed in feeds
        for value in feed.values()
    ]


def _order(value: np.ndarray) -> tuple[int, ...]:
    """The axes from the outermost in memory to the innermost: copied in this order, transposed images take a third."""
    if value.flags.c_contiguous:
        return tuple(range(value.ndim))
    return tuple(sorted(range(value.ndim), key=lambda axis: -abs(value.strides[axis])))


def _dtype(name: str) -> np.dtype:
    import ml_dtypes  # noqa: F401 - registers the names of the small float types with numpy

    return np.dtype(name)


def _anonymous_file() -> int:
    """A file without a name, in memory where the system supports that."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    import fcntl

    handle = os.memfd_create("trtpipe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return handle
