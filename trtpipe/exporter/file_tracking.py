"""File tracking: which files of the user's some code reads, so that undeclared inputs are known."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

import trtpipe

#: metadata folders of installed packages, editable ones too; plug-in systems read them all
_METADATA = (".egg-info", ".dist-info")
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/lib/", "/usr/share/")


class FileTracker:
    """While entered, records every regular file that Python code or safetensors opens for reading, and every module
    that is imported; except those of the system, the interpreter, installed packages and trtpipe itself.

    Audit hooks cannot be removed, so use it in a child process only.

    Args:
        own: a folder whose files are not recorded: the work folder.
    """

    def __init__(self, own: Path) -> None:
        self._own = own
        self._opened: set[str] = set()
        self._active = False
        self._before: set[str] = set()

    def __enter__(self) -> FileTracker:
        self._before = set(sys.modules)
        sys.addaudithook(self._hook)
        _audit_safetensors()
        self._active = True
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._active = False

    def files(self) -> tuple[str, ...]:
        """The files, as absolute paths."""
        modules = {getattr(sys.modules.get(name), "__file__", None) for name in set(sys.modules) - self._before}
        found = {_real(path) for path in (*self._opened, *modules) if path}
        outside = (*_installed_roots(), self._own, self._own.resolve())
        return tuple(sorted(str(p) for p in found if p is not None and not any(p.is_relative_to(r) for r in outside)))

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._active or event != "open":
            return
        path, mode, flags = args
        writing = isinstance(mode, str) and any(letter in mode for letter in "wax+")
        if writing or (mode is None and isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
            return
        if isinstance(path, str | bytes | os.PathLike):
            self._opened.add(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100  must not resolve or stat here


def _audit_safetensors() -> None:
    """Raise the audit event for safetensors, which opens files in native code."""
    if importlib.util.find_spec("safetensors") is None:
        return
    import safetensors

    native = safetensors.safe_open

    def audited(filename: Any, *args: Any, **options: Any) -> Any:
        sys.audit("open", os.fspath(filename), "rb", 0)
        return native(filename, *args, **options)

    setattr(safetensors, "safe_open", audited)  # noqa: B010  a type is replaced by a function on purpose


def _real(path: str) -> Path | None:
    """The file; ``None`` if it does not exist (any more), or is a device, kernel or compiled file."""
    found = Path(path)
    if found.parent.name == "__pycache__":  # it holds the time of its source, which is recorded itself
        return None
    if str(found).startswith(_SYSTEM) or found.parent.suffix in _METADATA or not found.is_file():
        return None
    return found


def _installed_roots() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    roots = {Path(sysconfig.get_paths()[name]) for name in names} | {Path(__file__).parent.parent}
    roots |= {Path(trtpipe.__file__).parent} if trtpipe.__file__ else set()
    return tuple(roots | {root.resolve() for root in roots})
