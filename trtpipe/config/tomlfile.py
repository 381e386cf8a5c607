"""TOML files: read into typed records, with complaints that name file, key and the nearest right word; and written."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError

from trtpipe.config.units import suggestion
from trtpipe.errors import RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_core import ErrorDetails

M = TypeVar("M", bound=BaseModel)

#: pydantic's context where a record is read from a file, or written to one: quantities have units there.
FROM_FILE = "file"
_MAX_BYTES = 1 << 20
#: An array of numbers as tomli-w writes it, a line each. A shape reads better on one line; no string has line breaks.
_NUMBERS = re.compile(r"\[\n((?:\s*[-+.\w]+,\n)+)\s*\]")
#: pydantic's kinds of error that need TOML's words.
_KINDS = {
    "tuple_type": "must be a list",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "missing": "the list is too short",
}


def load_toml(path: Path, model: type[M]) -> M:
    """Parse ``path`` and validate it as ``model``.

    Raises:
        RecipeError: the file cannot be read, is not TOML, or a key is unknown, missing or of the wrong kind.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device might never end
            raise RecipeError(f"{path}: not a file", "give an existing TOML file")
        if path.stat().st_size > _MAX_BYTES:
            raise RecipeError(f"{path}: larger than 1 MB, so not a hand-written TOML file", "give the right file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}", "give an existing TOML file") from error
    try:
        data = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and what int() says of a number with thousands of digits
        raise RecipeError(f"{path}: not valid TOML: {error}", "correct the line named above") from error
    except RecursionError as error:
        raise RecipeError(f"{path}: nested too deeply", "flatten the file") from error
    try:
        return model.model_validate(data, context=FROM_FILE)
    except ValidationError as error:
        raise _complaint(path, model, data, error) from error


def _complaint(path: Path, model: type[BaseModel], data: Any, error: ValidationError) -> RecipeError:
    first, where = _most_telling(data, error)
    key = ".".join(str(part) for part in where) or "document"
    known = _keys_at(model, where[:-1])
    if first["type"] == "extra_forbidden":
        return RecipeError(f"{path}: unknown key {key!r}", suggestion(str(where[-1]), known, "keys here"))
    if first["type"] == "missing" and isinstance(where[-1], str):
        return RecipeError(f"{path}: key {key!r} is missing", f"add {where[-1]!r}")
    message = _KINDS.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    return RecipeError(f"{path}: {key}: {message}", f"correct {key!r} (it is {first['input']!r:.80})")


def _most_telling(data: Any, error: ValidationError) -> tuple[ErrorDetails, tuple[int | str, ...]]:
    """The first complaint and where it is; of the members of a union, the one that got furthest into the value."""
    located = [(complaint, _written(data, complaint["loc"])) for complaint in error.errors()]
    start = located[0][1]
    return max((item for item in located if item[1][: len(start)] == start), key=lambda item: len(item[1]))


def _written(data: Any, where: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The part of pydantic's location that stands in the file, without its names for the members of a union."""
    found: list[int | str] = []
    for part in where:
        if isinstance(data, dict) and isinstance(part, str):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int):
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


def dump_toml(data: Mapping[str, Any]) -> str:
    """Nested dictionaries of strings, numbers, booleans and lists as TOML; ``None`` is left out."""
    text = tomli_w.dumps(_cleaned(data))
    return _NUMBERS.sub(lambda found: f"[{', '.join(found[1].replace(',', ' ').split())}]", text)


def _cleaned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _cleaned(item) for key, item in value.items() if item is not None}
    return [_cleaned(item) for item in value] if isinstance(value, list | tuple) else value
