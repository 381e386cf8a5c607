"""Loading functions by name, and limiting what libraries do when they are imported."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def load_name(name: str) -> Any:
    """The function or class called ``package.module:name``."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


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


def no_telemetry() -> None:
    """Call before onnxruntime is imported: prevents it from writing a database into the user's home and sending it.

    Version 1.32 for Linux does both unless this variable is set (seen with strace: files below ``~/.cache/Microsoft``,
    then DNS requests).
    """
    os.putenv("ORT_DISABLE_TELEMETRY", "1")
