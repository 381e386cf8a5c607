"""Keeping a library from importing another one that nobody asked for."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def without(package: str) -> Iterator[None]:
    """While entered, ``package`` looks as if it were not installed, unless it is imported already.

    Polygraphy and onnxsim import torch, one and a half seconds, only to learn that no array is a torch tensor.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # what the import system documents for "not importable"
    try:
        yield
    finally:
        del sys.modules[package]
