"""Feeds and outputs in an uncompressed ``.npz``, as arrays ``<index>/in/<name>`` and ``<index>/out/<name>``.

It is a part of ``finish.py``, too (``trtpipe.delivery.finish``), and so is written for Python 3.8 and numpy alone.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from typing import TypeAlias

    Array: TypeAlias = "np.ndarray[Any, Any]"

_DAMAGED = (OSError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError)


def read_feed_archive(stream: IO[bytes], widen: Any) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """Feeds and outputs, in their order. Nothing is made that is larger than the file, whatever it says of itself, and
    nothing is unpickled.

    Args:
        widen: called with the bits (uint16), the side (``in`` or ``out``) and the name of a type that numpy's files do
            not have; gives the array.

    Raises:
        ValueError: it is no such file, or is damaged.
    """
    sides: dict[str, dict[int, dict[str, Array]]] = {"in": {}, "out": {}}
    try:
        for label, value in _arrays(stream):
            index, side, name = label.split("/", 2)
            side, _, kind = side.partition(":")
            sides[side].setdefault(int(index), {})[name] = widen(value, side, kind) if kind else value
        feeds, outputs = ([found[index] for index in range(len(found))] for found in sides.values())
    except _DAMAGED as error:
        raise ValueError(str(error)) from error
    return feeds, outputs


def _arrays(stream: IO[bytes]) -> Iterator[tuple[str, Array]]:
    """The arrays by name; each is stored as it is, and its header speaks of as many bytes as there are."""
    size = stream.seek(0, os.SEEK_END)
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if sum(each.file_size for each in members) > size or any(each.compress_type for each in members):
            raise ValueError("it is compressed, or cut short")
        for member in members:
            label = member.filename[: -len(".npy")]
            with archive.open(member) as content:
                version = np.lib.format.read_magic(content)
                if version != (1, 0):
                    raise ValueError(f"{label}: format {version}")
                shape, _, dtype = np.lib.format.read_array_header_1_0(content)
                if dtype.hasobject or math.prod(shape) * dtype.itemsize != member.file_size - content.tell():
                    raise ValueError(f"{label}: holds no {dtype}{list(shape)}")
            with archive.open(member) as content:
                yield label, np.lib.format.read_array(content, allow_pickle=False)
