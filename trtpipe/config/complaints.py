"""What is wrong with a record that a user wrote: the key, and the nearest right word."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from trtpipe.config.units import suggestion
from trtpipe.errors import RecipeError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_NO_WORDS: Mapping[str, str] = MappingProxyType({})


def complaint(
    place: str, model: type[BaseModel], data: Any, error: ValidationError, words: Mapping[str, str] = _NO_WORDS
) -> RecipeError:
    """What is wrong with a record, as its author wrote it.

    Args:
        place: the file, or the record's class.
        data: what was validated as ``model``.
        words: pydantic's kind of error -> what to say of it instead of pydantic's message.
    """
    first, where = _most_telling(data, error)
    key = ".".join(str(part) for part in where)
    known = _keys_at(model, where[:-1])
    if first["type"] == "extra_forbidden":
        return RecipeError(f"{place}: unknown key {key!r}", suggestion(str(where[-1]), known, "keys here"))
    if first["type"] == "missing" and isinstance(where[-1], str):
        return RecipeError(f"{place}: key {key!r} is missing", f"add {where[-1]!r}")
    message = words.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    if not where:
        return RecipeError(f"{place}: {message}", "correct what it names")
    return RecipeError(f"{place}: {key}: {message}", f"correct {key!r} (it is {first['input']!r:.80})")


def _most_telling(data: Any, error: ValidationError) -> tuple[ErrorDetails, tuple[int | str, ...]]:
    """The first complaint and where it is; of the members of a union, the one that got furthest into the value."""
    located = [(complaint, _written(data, complaint["loc"])) for complaint in error.errors()]
    start = located[0][1]
    return max((item for item in located if item[1][: len(start)] == start), key=lambda item: len(item[1]))


def _written(data: Any, where: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The part of pydantic's location that its author wrote, without its names for the members of a union."""
    found: list[int | str] = []
    for part in where:
        if isinstance(data, dict) and isinstance(part, str):
            data = data.get(part)
        elif isinstance(data, list | tuple) and isinstance(part, int):
            data = data[part] if part < len(data) else None
        else:
            continue
        found.append(part)
    return tuple(found)


def _keys_at(model: type[BaseModel], where: tuple[Any, ...]) -> list[str]:
    """The keys that may stand in the table at ``where``, found by walking the models' annotations."""
    current: type[BaseModel] = model
    for part in where:
        field = current.model_fields.get(part) if isinstance(part, str) else None
        found = _model_in(field.annotation) if field else None
        current = found or current
    return sorted(field.alias or name for name, field in current.model_fields.items())


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if found := _model_in(argument):
            return found
    return None
