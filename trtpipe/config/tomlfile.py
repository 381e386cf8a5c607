"""TOML files: read into typed records, with complaints that name file, key and the nearest right word; and written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import tomli_w
from pydantic import BaseModel, TypeAdapter, ValidationError

from trtpipe.config.complaints import complaint
from trtpipe.config.toml_text import read_toml

if TYPE_CHECKING:
    from pathlib import Path

M = TypeVar("M", bound=BaseModel)

#: pydantic's context where a record is read from a file, or written to one: quantities have units there.
FROM_FILE = "file"
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
    data = read_toml(path)
    try:
        return TypeAdapter(model).validate_python(data, context=FROM_FILE)
    except ValidationError as error:
        raise complaint(str(path), model, data, error, _KINDS) from error


def dump_toml(data: Mapping[str, Any]) -> str:
    """Nested dictionaries of strings, numbers, booleans and lists as TOML; ``None`` is left out."""
    text = tomli_w.dumps(_cleaned(data))
    return _NUMBERS.sub(lambda found: f"[{', '.join(found[1].replace(',', ' ').split())}]", text)


def _cleaned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _cleaned(item) for key, item in value.items() if item is not None}
    return [_cleaned(item) for item in value] if isinstance(value, list | tuple) else value
