"""Hostile ``.pt2`` archives, made from a program that torch saved: bombs, lies of the directory, damage, pickles."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Bits flipped, and places where the archive ends.
FLIPS, CUTS = 24, 12
_BOMB = 1 << 30
_EVIL = b"\x80\x04cposix\nsystem\n(S'touch /tmp/trtpipe-escaped'\ntR."


def saved_program() -> bytes:
    """A small network, as ``torch.export.save`` writes it."""
    import torch

    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval()
    stream = io.BytesIO()
    torch.export.save(torch.export.export(network, (torch.zeros(2, 4),)), stream)
    return stream.getvalue()


def hostile_programs(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents."""
    bomb = _zeros(_BOMB)
    yield "a bomb of one member", _with(good, "bomb.bin", bomb, _BOMB)
    yield "a bomb whose directory says 10 bytes", _with(good, "bomb.bin", bomb, 10)
    yield "a bomb for weights that says 64 bytes", _deflated(good, "weight_0", bomb, 64)
    yield "a bomb of 3,000 members that share their bytes", _overlapping(3_000, 16 << 20)
    yield "60,000 members", _overlapping(60_000, 0)
    yield "a zip within a zip", _replaced(good, {".json": lambda old: good})
    yield "no members", b"PK\x05\x06" + bytes(18)
    for name, text in {
        "brackets 100,000 deep": b"[" * 100_000,
        "a record of 50 MB": b'{"x": "' + b"a" * 50_000_000 + b'"}',
        "an empty record": b"{}",
        "no record": b"\xff\xfe",
    }.items():
        yield name, _replaced(good, {".json": lambda old, text=text: text})
    yield "pickles for weights", _replaced(good, {"weight_0": lambda old: _EVIL, ".pt": lambda old: _EVIL})
    yield "weights of no bytes", _replaced(good, {"weight_0": lambda old: b""})
    yield "names that lead elsewhere", _renamed(good, "../../../../tmp/trtpipe-escaped")
    yield "absolute names", _renamed(good, "/tmp/trtpipe-escaped")
    yield "every member twice", _twice(good)
    yield "operators nobody has", _replaced(good, {".json": lambda old: old.replace(b"aten", b"evil")})
    yield "sizes beyond all bounds", _replaced(good, {".json": _huge})
    chance = random.Random(0)
    for _ in range(FLIPS):
        place = chance.randrange(8 * len(good))
        spoiled = bytearray(good)
        spoiled[place // 8] ^= 1 << place % 8
        yield f"bit {place} flipped", bytes(spoiled)
    for _ in range(CUTS):
        end = chance.randrange(len(good))
        yield f"cut off at byte {end}", good[:end]


def _zeros(size: int) -> bytes:
    """So many zeros, deflated."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(16 << 20)
    return b"".join(engine.compress(block) for _ in range(size // len(block))) + engine.flush()


def _with(good: bytes, name: str, deflated: bytes, size: int) -> bytes:
    """``good`` and a member more, whose size is what is said."""
    stream = io.BytesIO(good)
    with zipfile.ZipFile(stream, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        _add(archive, f"{folder}/{name}", deflated, size)
    return stream.getvalue()


def _deflated(good: bytes, end: str, deflated: bytes, size: int) -> bytes:
    """A member whose name ends so, with another content, whose size is what is said."""

    def write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
        if info.filename.endswith(end):
            _add(archive, info.filename, deflated, size)
        else:
            archive.writestr(info.filename, content)

    return _rewritten(good, write)


def _add(archive: zipfile.ZipFile, name: str, deflated: bytes, size: int) -> None:
    """A member that is stored as it is, and said by the directory to unpack to ``size`` bytes."""
    archive.writestr(zipfile.ZipInfo(name), deflated)
    info = archive.filelist[-1]
    info.compress_type, info.file_size, info.compress_size = zipfile.ZIP_DEFLATED, size, len(deflated)


def _overlapping(count: int, size: int) -> bytes:
    """Members that all are the same bytes of the file."""
    data, name = _zeros(size), b"x"
    local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 8, 0, 0, 0, len(data), size, len(name), 0) + name + data
    central = b""
    for number in range(count):
        each = f"x/data/{number}".encode()
        head = (0x02014B50, 20, 20, 0, 8, 0, 0, 0, len(data), size, len(each), 0, 0, 0, 0, 0, 0)
        central += struct.pack("<IHHHHHHIIIHHHHHII", *head) + each
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(central), len(local), 0)
    return local + central + end


def _rewritten(good: bytes, write: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            write(new, info, old.read(info))
    return stream.getvalue()


def _replaced(good: bytes, changes: dict[str, Callable[[bytes], bytes]]) -> bytes:
    """Members whose names end so, with another content."""

    def write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
        change = next((change for end, change in changes.items() if info.filename.endswith(end)), None)
        archive.writestr(info.filename, content if change is None else change(content))

    return _rewritten(good, write)


def _renamed(good: bytes, beginning: str) -> bytes:
    return _rewritten(good, lambda archive, info, content: archive.writestr(beginning + info.filename, content))


def _twice(good: bytes) -> bytes:
    import warnings

    def write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive.writestr(info.filename, content)
            archive.writestr(info.filename, content[::-1])

    return _rewritten(good, write)


def _huge(record: bytes) -> bytes:
    """Every number in a record of a program, as large as a size can be."""

    def enlarge(value: object) -> object:
        if isinstance(value, dict):
            return {key: enlarge(each) for key, each in value.items()}
        if isinstance(value, list):
            return [enlarge(each) for each in value]
        return 2**62 if type(value) is int else value

    try:
        return json.dumps(enlarge(json.loads(record))).encode()
    except ValueError:
        return record
