"""Protobuf's wire format (https://protobuf.dev/programming-guides/encoding/), read in Python and bounded throughout.

A message is a range of bytes of which only the heads of fields are read, so a weight costs as much as a name: names,
types and shapes of a 100 MB model take a millisecond, where a parser takes a tenth of a second to copy the weights.
A wrong length is found before memory is reserved for it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.preflight.model import MOST_FIELDS, Malformed, TooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

#: (bytes, begin, end)
Span: TypeAlias = "tuple[bytes | FileBytes, int, int]"

_WINDOW = 1 << 13
_IN_MEMORY = 16 << 20
_LONGEST_VARINT = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}
#: Field numbers of ModelProto, GraphProto and TensorProto (onnx.proto).
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
#: Smaller constants are kept: shapes and axes are worth reading, and cost nothing.
_SMALL = 1024


class FileBytes:
    """A file as bytes, read through a window. It is never mapped: truncating a mapped file kills the process."""

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
                raise Malformed("it ends too early")
        return self._window[offset]

    def read(self, begin: int, end: int) -> bytes:
        """The bytes from ``begin`` to ``end``."""
        pieces, at = [], begin
        while at < end:
            piece = os.pread(self._handle, end - at, at)
            if not piece:
                raise Malformed("it ends too early")
            pieces.append(piece)
            at += len(piece)
        return b"".join(pieces)


def loaded(span: Span, most: int = _IN_MEMORY) -> Span:
    """The same message, in memory if it has at most ``most`` bytes: reading it is several times faster there."""
    data, begin, end = span
    if isinstance(data, bytes) or end - begin > most:
        return span
    return data.read(begin, end), 0, end - begin


def content(span: Span) -> bytes:
    """The bytes of a field."""
    data, begin, end = span
    return data[begin:end] if isinstance(data, bytes) else data.read(begin, end)


class WireReader:
    """Reads messages and counts their fields.

    Args:
        most: fields that may be read in all.
    """

    def __init__(self, most: int = MOST_FIELDS) -> None:
        self._left = most

    def fields(self, span: Span) -> Iterator[tuple[int, int, int, int]]:
        """(number, begin, end, start) of the fields of a message; for one that is a number: (number, value, -1, start).

        ``start`` is where the field's head begins; the payload lies between ``begin`` and ``end``.

        Raises:
            Refused: not protobuf, truncated, or too many fields.
        """
        data, at, end = span
        while at < end:
            start = at
            self._left -= 1
            if self._left < 0:
                raise TooLarge("it has more parts than any real model", "split the model, or simplify it")
            tag, at = varint(data, at, end)
            wire = tag & 7
            if tag < 8:
                raise Malformed(f"a field without a number at byte {at}")
            if wire == _BYTES:
                length, at = varint(data, at, end)
                if length > end - at:
                    raise Malformed(f"field {tag >> 3} at byte {at} extends beyond its message")
                yield tag >> 3, at, at + length, start
                at += length
            elif wire == _VARINT:
                value, at = varint(data, at, end)
                yield tag >> 3, value, -1, start
            elif wire in _WIDTHS:
                if end - at < _WIDTHS[wire]:
                    raise Malformed(f"field {tag >> 3} at byte {at} extends beyond its message")
                yield tag >> 3, at, at + _WIDTHS[wire], start
                at += _WIDTHS[wire]
            else:
                raise Malformed(f"wire type {wire} at byte {at}")


def varint(data: bytes | FileBytes, at: int, end: int) -> tuple[int, int]:
    """The number at ``at``, and where it ends."""
    if at >= end:
        raise Malformed(f"it ends too early, at byte {at}")
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
    raise Malformed(f"a number without an end at byte {at}")


def numbers(data: bytes) -> list[int]:
    """Packed numbers; of a tensor's dimensions the first 100 are more than enough."""
    found, value, shift = [], 0, 0
    for byte in data[:1000]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(signed(value))
            value = shift = 0
    return found


def signed(value: int) -> int:
    """A number of 64 bits as a signed one."""
    return value - (1 << 64) if value >> 63 else value


def read_without_weights(path: Path) -> bytes:
    """The ModelProto at ``path``, serialized, without ``raw_data`` of more than 1 kB in the graph's initializers.

    Raises:
        Refused: not protobuf, or truncated.
        OSError: the file cannot be read.
    """
    reader = WireReader()

    def tensor(span: Span) -> bytes:
        return _rewritten(reader, loaded(span, _SMALL), _TENSOR_RAW_DATA, lambda raw: b"", least=_SMALL)

    def graph(span: Span) -> bytes:
        return _rewritten(reader, span, _GRAPH_INITIALIZER, lambda one: _field(_GRAPH_INITIALIZER, tensor(one)))

    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        whole = (FileBytes(handle), 0, os.fstat(handle).st_size)
        return _rewritten(reader, whole, _MODEL_GRAPH, lambda one: _field(_MODEL_GRAPH, graph(one)))
    finally:
        os.close(handle)


def with_weights(model: bytes, tensors: Sequence[bytes]) -> Iterator[bytes]:
    """A serialized ModelProto whose graph has no initializers, with these: in parts, so that no second copy is made.

    Joined they are what protobuf itself would write: fields in the order of their numbers.

    Args:
        tensors: serialized TensorProtos.
    """
    heads = [_head(_GRAPH_INITIALIZER, len(tensor)) for tensor in tensors]
    fields = WireReader().fields((model, 0, len(model)))
    begin, end, start = next(found[1:] for found in fields if found[0] == _MODEL_GRAPH)
    inner = WireReader().fields((model, begin, end))
    split = next((at for number, _, _, at in inner if number >= _GRAPH_INITIALIZER), end)
    yield model[:start]
    yield _head(_MODEL_GRAPH, end - begin + sum(map(len, (*heads, *tensors))))
    yield model[begin:split]
    for head, tensor in zip(heads, tensors, strict=True):
        yield head
        yield tensor
    yield model[split:]


def _rewritten(
    reader: WireReader, span: Span, number: int, rewrite: Callable[[Span], bytes], *, least: int = -1
) -> bytes:
    """The message with each field ``number`` of more than ``least`` bytes replaced; the rest is copied as it is."""
    data, copied, last = span
    parts = []
    for found, begin, end, start in reader.fields(span):
        if found == number and end - begin > least and end >= 0:
            parts += [content((data, copied, start)), rewrite((data, begin, end))]
            copied = end
    return b"".join((*parts, content((data, copied, last))))


def _field(number: int, payload: bytes) -> bytes:
    return _head(number, len(payload)) + payload


def _head(number: int, length: int) -> bytes:
    """What precedes a field of ``length`` bytes."""
    return _varint(number << 3 | _BYTES) + _varint(length)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
