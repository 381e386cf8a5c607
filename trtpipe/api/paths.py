"""Paths as the public functions take them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection

PathLike: TypeAlias = "str | os.PathLike[str]"


def path_of(path: PathLike, argument: str) -> Path:
    """The path that an argument gives.

    Args:
        argument: its name, for the error.

    Raises:
        InputError: it is neither text nor path-like, or a path of bytes.
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(text, str):
        raise InputError(f"{argument}: a {type(path).__name__} is not a path", "give a str or a pathlib.Path")
    return Path(text)


def path_or_none(path: PathLike | None, argument: str) -> Path | None:
    """The path that an optional argument gives."""
    return None if path is None else path_of(path, argument)


def is_file_name(out: Path, suffixes: Collection[str]) -> bool:
    """Whether an output names the file to write; else it is a folder."""
    return out.suffix in suffixes and not out.is_dir()


def folder_of(out: Path, suffixes: Collection[str]) -> Path:
    """The folder that an output goes to."""
    return out.parent if is_file_name(out, suffixes) else out
