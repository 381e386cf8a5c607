"""Frozen dataclasses from JSON and back, strictly, with nothing but the standard library.

The types that a field may have: ``str``, ``bool``, ``int``, ``float``, ``None``, ``Literal``, other such dataclasses,
``tuple[X, ...]``, tuples of fixed length, ``dict[str, X]``, and unions of these. A bool is no number here, a float is
finite, and a field without a default has to be there.
"""

from __future__ import annotations

import json
import math
import sys
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from trtpipe.digest import unique_keys
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

T = TypeVar("T")

#: The most that is read of a record: values in it, which take more memory than their text.
_MOST_VALUES = 1 << 20
_REMEDY = "use the file as trtpipe wrote it, or make it again with the command that wrote it"
_ARTICLES = {str: "text", bool: "true or false", int: "a whole number", float: "a finite number", type(None): "null"}


def to_text(record: object) -> str:
    """Indented JSON with sorted keys: equal records give equal text."""
    return json.dumps(_plain(record), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def load_object(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in the content of a file; no key in it is there twice.

    Args:
        path: for errors.

    Raises:
        InputError: it is none.
    """
    if sum(map(data.count, b"[{,")) > _MOST_VALUES:
        raise InputError(f"{path}: holds more than {_MOST_VALUES:,} values", "give the right file")
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON as trtpipe writes it: {error}", _REMEDY) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object", "give the right file")
    return content


def read_record(kind: type[T], content: object, path: Path, remedy: str = _REMEDY) -> T:
    """The record that plain JSON values stand for.

    Args:
        remedy: what to do about a mistake; a file that people write by hand has another.

    Raises:
        InputError: they are not such a record; the message names the field.
    """
    try:
        record: T = _read(kind, content, "")
    except _WrongValue as error:
        raise InputError(f"{path}: {error.where or 'document'}: {error.problem}", remedy) from error
    return record


class _WrongValue(Exception):
    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)
        self.where = where
        self.problem = problem


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _read(kind: Any, value: object, where: str) -> Any:
    origin = get_origin(kind)
    if is_dataclass(kind):
        return _record(kind, value, where)
    if origin is Literal:
        if not any(value == each and type(value) is type(each) for each in get_args(kind)):
            raise _WrongValue(where, f"{value!r} is none of {', '.join(map(repr, get_args(kind)))}")
        return value
    if origin in (Union, types.UnionType):
        return _any_of(get_args(kind), value, where)
    if origin is tuple:
        return tuple(_items(get_args(kind), value, where))
    if origin is dict:
        if not isinstance(value, dict):
            raise _WrongValue(where, "not an object")
        return {key: _read(get_args(kind)[1], item, f"{where}.{key}".lstrip(".")) for key, item in value.items()}
    if kind is float and type(value) is int and abs(value) <= sys.float_info.max:
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise _WrongValue(where, f"{value!r:.60} is not {_ARTICLES[kind]}")
    return value


def _any_of(kinds: tuple[Any, ...], value: object, where: str) -> Any:
    """The first of several types that fits; what is wrong is said of the last, which is most often the only one."""
    last = _WrongValue(where, "not a value")
    for kind in sorted(kinds, key=lambda kind: kind is not type(None)):
        try:
            return _read(kind, value, where)
        except _WrongValue as error:
            last = error
    raise last


def _items(kinds: tuple[Any, ...], value: object, where: str) -> Iterator[Any]:
    if not isinstance(value, list):
        raise _WrongValue(where, "not a list")
    if kinds[-1:] == (Ellipsis,):
        kinds = kinds[:1] * len(value)
    elif len(kinds) != len(value):
        raise _WrongValue(where, f"{len(value)} values, not {len(kinds)}")
    for index, (kind, item) in enumerate(zip(kinds, value, strict=True)):
        yield _read(kind, item, f"{where}[{index}]")


def _record(kind: Any, value: object, where: str) -> Any:
    if not isinstance(value, dict):
        raise _WrongValue(where, "not an object")
    known = {each.name: each for each in fields(kind)}
    inside = f"{where}." if where else ""
    if unknown := sorted(value.keys() - known.keys()):
        raise _WrongValue(f"{inside}{unknown[0]}", "no such field")
    for name, each in known.items():
        if name not in value and each.default is MISSING and each.default_factory is MISSING:
            raise _WrongValue(f"{inside}{name}", "is missing")
    hints = get_type_hints(kind)
    read = {name: _read(hints[name], item, f"{inside}{name}") for name, item in value.items()}
    try:
        return kind(**read)
    except ValueError as error:  # of a check in __post_init__
        raise _WrongValue(where, str(error)) from error


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no number")
