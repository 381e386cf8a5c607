"""Paths as the public functions take them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from trtpipe.errors import InputError

PathLike: TypeAlias = "str | os.PathLike[str]"


def path_of(path: PathLike) -> Path:
    """A path as the public functions take it.

    Raises:
        InputError: it is neither text nor path-like.

    Example:
        >>> path_of("model.onnx")
        PosixPath('model.onnx')
    """
    if isinstance(path, bytes) or not isinstance(path, (str, os.PathLike)):
        raise InputError(f"{type(path).__name__} is not a path", "give a str or a pathlib.Path")
    return Path(path)
