"""How things are named: canonical JSON and sha256 of content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from io import RawIOBase

#: What canonical JSON can hold. ``Any`` inside containers keeps the alias usable under mypy strict.
JSON: TypeAlias = "Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None"

_CHUNK = 1 << 20


def canonical_json(value: JSON) -> str:
    """Serialize ``value`` to the one JSON text that stands for it.

    Keys are sorted, separators have no spaces, and NaN or infinity is refused, so equal values of equal types give
    equal text on every machine and Python version.

    Raises:
        ValueError: ``value`` holds NaN or an infinity.
        TypeError: ``value`` holds something JSON cannot express, for example a key that is not a string.
    """
    _refuse_odd_keys(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, as ``json.loads(object_pairs_hook=...)`` wants it; of a key that is there twice, readers take
    either.

    Raises:
        ValueError: a key is there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} is there twice")
    return found


def _refuse_odd_keys(value: JSON) -> None:
    """``json`` would turn the keys 1, True and None into text, and so give different values the same name."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is not a string")
            _refuse_odd_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_odd_keys(item)


def sha256_json(value: JSON) -> str:
    """The sha256 of the canonical JSON of ``value``, as 64 hex digits."""
    return sha256_bytes(canonical_json(value).encode())


def sha256_bytes(data: bytes | memoryview) -> str:
    """The sha256 of ``data``, as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content, as 64 hex digits; reads in chunks, so memory use is constant.

    Raises:
        OSError: the file cannot be read, or is a pipe or a device, which is not waited for.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        return sha256_stream(stream)


def sha256_stream(stream: RawIOBase) -> str:
    """The sha256 of what is left to read in an unbuffered binary stream, as 64 hex digits."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    while count := stream.readinto(buffer):
        digest.update(view[:count])
    return digest.hexdigest()
