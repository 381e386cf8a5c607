"""An ONNX file's graph apart from the weights that lie in the file: what most questions about a model need.

Works on protobuf's wire format (https://protobuf.dev/programming-guides/encoding/), because a parser would copy every
weight into memory first: names, types and shapes of a 100 MB model are read in a millisecond instead of a tenth of a
second, and a broken length is found before anything is reserved for it. It also copies them to write them.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

#: Field numbers of ModelProto, GraphProto and TensorProto (onnx.proto).
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: Smaller constants stay: shapes and axes are worth reading, and cost nothing.
_SMALL = 1024
_LONGEST_VARINT = 10


class _Field(NamedTuple):
    """One field of a message: its number, its bytes up to the payload, and where the payload ends in the file."""

    number: int
    head: bytes
    begin: int
    end: int
    is_bytes: bool


def read_without_weights(path: Path) -> bytes:
    """The ModelProto at ``path``, serialized, without ``raw_data`` of more than 1 kB in the graph's initializers.

    Raises:
        ValueError: not protobuf, or cut short.
        OSError: the file cannot be read.
    """
    with path.open("rb") as stream:
        end = stream.seek(0, 2)
        stream.seek(0)
        return _rewritten(stream, end, {_MODEL_GRAPH: _graph})


def with_weights(model: bytes, tensors: Sequence[bytes]) -> Iterator[bytes]:
    """A serialized ModelProto whose graph has no initializers, with these: in parts, so that no second copy is made.

    Joined they are what protobuf itself would write, which is in the order of field numbers.

    Args:
        tensors: serialized TensorProtos.
    """
    heads = [_tag(_GRAPH_INITIALIZER) + _varint(len(tensor)) for tensor in tensors]
    with BytesIO(model) as stream:
        for field in _fields(stream, len(model)):
            if field.number != _MODEL_GRAPH:
                yield field.head + _payload(stream, field)
                continue
            parts = [(inner.number, inner.head + _payload(stream, inner)) for inner in _fields(stream, field.end)]
            yield _tag(_MODEL_GRAPH)
            yield _varint(sum(len(part) for _, part in parts) + sum(map(len, (*heads, *tensors))))
            yield from (part for number, part in parts if number < _GRAPH_INITIALIZER)
            for head, tensor in zip(heads, tensors, strict=True):
                yield head
                yield tensor
            yield from (part for number, part in parts if number >= _GRAPH_INITIALIZER)


def _graph(stream: BinaryIO, end: int) -> bytes:
    return _rewritten(stream, end, {_GRAPH_INITIALIZER: _tensor})


def _tensor(stream: BinaryIO, end: int) -> bytes:
    kept = []
    for field in _fields(stream, end):
        if field.number != _TENSOR_RAW_DATA or field.end - field.begin <= _SMALL:
            kept += [field.head, _payload(stream, field)]
    return b"".join(kept)


def _rewritten(stream: BinaryIO, end: int, inner: dict[int, Callable[[BinaryIO, int], bytes]]) -> bytes:
    """The message up to ``end``, with the submessages numbered in ``inner`` rewritten."""
    parts = []
    for field in _fields(stream, end):
        rewrite = inner.get(field.number) if field.is_bytes else None
        if rewrite is None:
            parts += [field.head, _payload(stream, field)]
        else:
            body = rewrite(stream, field.end)
            parts += [_tag(field.number), _varint(len(body)), body]
    return b"".join(parts)


def _fields(stream: BinaryIO, end: int) -> Iterator[_Field]:
    """The fields of the message that ends at ``end``; whatever of a payload was not read is skipped."""
    position = stream.tell()
    while position < end:
        tag, head = _read_varint(stream)
        number, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            length, more = _read_varint(stream)
            head += more
        elif wire == _VARINT:
            length, value = 0, _read_varint(stream)[1]
            head += value
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        begin = position + len(head)
        position = begin + length
        if not number or position > end:
            raise ValueError(f"field {number} at byte {begin} reaches beyond its message")
        yield _Field(number, head, begin, position, wire == _BYTES)
        stream.seek(position)


def _payload(stream: BinaryIO, field: _Field) -> bytes:
    return stream.read(field.end - field.begin)


def _read_varint(stream: BinaryIO) -> tuple[int, bytes]:
    value, raw = 0, b""
    while len(raw) < _LONGEST_VARINT:
        byte = stream.read(1)
        if not byte:
            raise ValueError("cut short")
        value |= (byte[0] & 0x7F) << (7 * len(raw))
        raw += byte
        if byte[0] < 0x80:
            return value, raw
    raise ValueError("a number of more than ten bytes")


def _tag(number: int) -> bytes:
    """What announces a field of bytes."""
    return _varint(number << 3 | _BYTES)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
