"""Protobuf's wire format (https://protobuf.dev/programming-guides/encoding/), read in Python and bounded throughout.

A message is a stretch of bytes, of which only the heads of fields are looked at: a weight costs as much as a name.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.preflight.budgets import Garbled, TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator

#: (bytes, begin, end)
Span: TypeAlias = "tuple[bytes | FileBytes, int, int]"

_WINDOW = 1 << 13
_SMALL = 16 << 20
_LONGEST_VARINT = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}


class FileBytes:
    """A file as bytes, through a window: never mapped, because a file cut short meanwhile would kill the process."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._begin = 0
        self._window = b""

    def __getitem__(self, index: int) -> int:
        offset = index - self._begin
        if not 0 <= offset < len(self._window):
            self._begin, self._window = index, os.pread(self._handle, _WINDOW, index)
            offset = 0
            if not self._window:
                raise Garbled("it ends too early")
        return self._window[offset]

    def read(self, begin: int, end: int) -> bytes:
        """The bytes from ``begin`` to ``end``."""
        pieces, at = [], begin
        while at < end:
            piece = os.pread(self._handle, end - at, at)
            if not piece:
                raise Garbled("it ends too early")
            pieces.append(piece)
            at += len(piece)
        return b"".join(pieces)


def loaded(span: Span, most: int = _SMALL) -> Span:
    """The same message in memory if it has no more than ``most`` bytes: reading it becomes several times faster."""
    data, begin, end = span
    if isinstance(data, bytes) or end - begin > most:
        return span
    return data.read(begin, end), 0, end - begin


def content(span: Span) -> bytes:
    """The bytes of a field."""
    data, begin, end = span
    return data[begin:end] if isinstance(data, bytes) else data.read(begin, end)


class Wire:
    """Reads messages and counts their fields.

    Args:
        most: fields that may be read in all.
    """

    def __init__(self, most: int) -> None:
        self._left = most

    def fields(self, span: Span) -> Iterator[tuple[int, int, int]]:
        """(number, begin, end) of the fields of a message; for one that is a number: (number, value, -1).

        Raises:
            Refused: not protobuf, cut short, or too many fields.
        """
        data, at, end = span
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise TooLarge("it has more parts than any real model", "split the model, or simplify it")
            tag, at = varint(data, at, end)
            wire = tag & 7
            if tag < 8:
                raise Garbled(f"a field without a number at byte {at}")
            if wire == _BYTES:
                length, at = varint(data, at, end)
                if length > end - at:
                    raise Garbled(f"field {tag >> 3} at byte {at} reaches beyond its end")
                yield tag >> 3, at, at + length
                at += length
            elif wire == _VARINT:
                value, at = varint(data, at, end)
                yield tag >> 3, value, -1
            elif wire in _WIDTHS:
                if end - at < _WIDTHS[wire]:
                    raise Garbled("it ends too early")
                yield tag >> 3, at, at + _WIDTHS[wire]
                at += _WIDTHS[wire]
            else:
                raise Garbled(f"wire type {wire} at byte {at}")


def varint(data: bytes | FileBytes, at: int, end: int) -> tuple[int, int]:
    """The number at ``at``, and where it ends."""
    if at >= end:
        raise Garbled("it ends too early")
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value = shift = 0
    for position in range(at, min(end, at + _LONGEST_VARINT)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, position + 1
        shift += 7
    raise Garbled(f"a number without an end at byte {at}")


def numbers(data: bytes) -> list[int]:
    """Packed numbers; of those of a tensor's dimensions the first 100 are more than enough."""
    found, value, shift = [], 0, 0
    for byte in data[:1000]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(signed(value))
            value = shift = 0
    return found


def signed(value: int) -> int:
    """A number of 64 bits as one with a sign."""
    return value - (1 << 64) if value >> 63 else value
