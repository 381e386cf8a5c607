"""Which files of the user's a piece of code reads: the inputs nobody declared."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

import trtpipe

#: folders in which installed packages, editable ones too, describe themselves; plug-in systems read them all
_METADATA = (".egg-info", ".dist-info")
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/lib/", "/usr/share/")


class Reading:
    """Records, while entered, every regular file that Python code or safetensors opens for reading, and every module
    that is imported, leaving out the system, the interpreter, installed packages and trtpipe itself.

    Audit hooks cannot be removed, so this belongs into a child process of its own.

    Args:
        own: a folder whose files do not count, because the work itself writes and reads them.
    """

    def __init__(self, own: Path) -> None:
        self._own = own
        self._opened: set[str] = set()
        self._active = False
        self._before: set[str] = set()

    def __enter__(self) -> Reading:
        self._before = set(sys.modules)
        sys.addaudithook(self._hook)
        _announce_safetensors()
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


def _announce_safetensors() -> None:
    """safetensors opens files in native code, which no audit hook sees: say it for it."""
    if importlib.util.find_spec("safetensors") is None:
        return
    import safetensors

    native = safetensors.safe_open

    def announced(filename: Any, *args: Any, **options: Any) -> Any:
        sys.audit("open", os.fspath(filename), "rb", 0)
        return native(filename, *args, **options)

    setattr(safetensors, "safe_open", announced)  # noqa: B010  a type is replaced by a function on purpose


def _real(path: str) -> Path | None:
    """The file itself, or ``None`` if there is none (any more), or it is a device, kernel or compiled file."""
    found = Path(path)
    if found.parent.name == "__pycache__":  # it holds the time of its source, and the source counts by itself
        return None
    if str(found).startswith(_SYSTEM) or found.parent.suffix in _METADATA or not found.is_file():
        return None
    return found


def _installed_roots() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    roots = {Path(sysconfig.get_paths()[name]) for name in names} | {Path(__file__).parent.parent}
    roots |= {Path(trtpipe.__file__).parent} if trtpipe.__file__ else set()
    return tuple(roots | {root.resolve() for root in roots})
