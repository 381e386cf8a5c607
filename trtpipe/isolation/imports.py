"""Keeping libraries from what nobody asked for: importing another one, and calling home."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOADING = threading.RLock()


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


class _Deferred(ModuleType):
    """A module that is loaded when it is first asked for something. (importlib's own is loaded by any import of it.)"""

    def __getattr__(self, name: str) -> object:
        spec = self.__spec__
        if spec is None or spec.loader is None:
            raise AttributeError(name)
        with _LOADING:
            if not self.__dict__.setdefault("__begun__", False):
                self.__begun__ = True
                if spec.submodule_search_locations is not None:
                    self.__path__ = spec.submodule_search_locations
                spec.loader.exec_module(self)
                self.__class__ = ModuleType  # type: ignore[assignment]  # an ordinary one from now on
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None


def defer_sympy() -> None:
    """Have sympy loaded when it is first used. For processes of our own, not for those that import trtpipe.

    onnx-ir imports it, a third of a second, for arithmetic on symbolic dimensions that few models ask for. The table in
    its ``_symbolic_shapes`` uses it at once, so that module waits too; a version without one is imported as it is.
    """
    if "onnx_ir" in sys.modules or (package := PathFinder.find_spec("onnx_ir")) is None:
        return
    folders = {"sympy": None, "onnx_ir._symbolic_shapes": package.submodule_search_locations}
    for name, folder in folders.items():
        spec = None if name in sys.modules else PathFinder.find_spec(name, folder)
        if spec is not None:
            module = module_from_spec(spec)
            vars(module).pop("__path__", None)  # a submodule is looked for there: that counts as asking
            module.__class__ = _Deferred
            sys.modules[name] = module


def no_telemetry() -> None:
    """Before onnxruntime is imported: keep it from writing a database into the user's home and sending it.

    Version 1.32 for Linux does both unless this variable is set (seen with strace: files below ``~/.cache/Microsoft``,
    then name look-ups).
    """
    os.putenv("ORT_DISABLE_TELEMETRY", "1")
