"""Paths as the public functions take them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection

PathLike: TypeAlias = "str | os.PathLike[str]"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def refuse_url(text: str) -> None:
    """Complain about an address on the net where a file or folder is read.

    Raises:
        InputError: ``text`` begins like one.
    """
    if _URL.match(text):
        raise InputError(f"{text}: URLs are not read", "download it, and name the file")


def path_of(path: PathLike, argument: str, remedy: str = "give a str or a pathlib.Path") -> Path:
    """The path that an argument gives.

    Args:
        argument: its name, for the error.
        remedy: what else it may be, where a path is not all.

    Raises:
        InputError: it is neither text nor path-like, a path of bytes, or a URL.
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(text, str):
        raise InputError(f"{argument}: a {type(path).__name__} is not a path", remedy)
    if not text:
        raise InputError(f"{argument}: an empty path", remedy)
    refuse_url(text)
    return Path(text)


def path_or_none(path: PathLike | None, argument: str) -> Path | None:
    """The path that an optional argument gives."""
    return None if path is None else path_of(path, argument)


def paths_of(paths: Iterable[PathLike], argument: str) -> tuple[Path, ...]:
    """The paths that an argument gives; a single one is no list of its letters.

    Raises:
        InputError: it is one path, or no list of paths.
    """
    if isinstance(paths, (str, os.PathLike)) or not isinstance(paths, Iterable):
        kind = "one path" if isinstance(paths, (str, os.PathLike)) else f"a {type(paths).__name__}"
        raise InputError(f"{argument}: {paths!r} is {kind}, not a list of paths", f"give {argument}=[path, ...]")
    return tuple(path_of(path, argument) for path in paths)


def is_file_name(out: Path, suffixes: Collection[str]) -> bool:
    """Whether an output names the file to write; else it is a folder."""
    return out.suffix in suffixes and not out.is_dir()


def folder_of(out: Path, suffixes: Collection[str]) -> Path:
    """The folder that an output goes to."""
    return out.parent if is_file_name(out, suffixes) else out
