"""The text of TOML files as plain values; what they have to be is said elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from trtpipe.errors import RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 1 << 20


def read_toml(path: Path) -> dict[str, Any]:
    """The values in the file ``path``.

    Raises:
        RecipeError: it cannot be read, is larger than 1 MB, or is not TOML.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device might never end
            raise RecipeError(f"{path}: not a file", "give an existing TOML file")
        if path.stat().st_size > _MAX_BYTES:
            raise RecipeError(f"{path}: larger than 1 MB, so not a hand-written TOML file", "give the right file")
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error}", "give an existing TOML file") from error
    return parse_toml(content, path)


def parse_toml(content: bytes, path: Path) -> dict[str, Any]:
    """The values in the content of ``path``, which is for errors.

    Raises:
        RecipeError: it is not TOML.
    """
    try:
        values: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: cannot be read: {error}", "give an existing TOML file") from error
    except ValueError as error:  # TOMLDecodeError, and what int() says of a number with thousands of digits
        raise RecipeError(f"{path}: not valid TOML: {error}", "correct the line named above") from error
    except RecursionError as error:
        raise RecipeError(f"{path}: nested too deeply", "flatten the file") from error
    return values
