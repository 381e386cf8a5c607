"""What some code of the user's reads, so that its undeclared inputs are known: files, folders, the environment.

Python tells most of it by audit events; questions about files (``os.stat``) and the environment are not among them, so
these functions are wrapped. What neither can tell (libraries that open files by themselves, other processes, the
network) is named as unseen: code that uses it has to run again.
"""

from __future__ import annotations

import builtins
import importlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import trtpipe
from trtpipe.artifact import Observed
from trtpipe.config.settings import environment

#: metadata folders of installed packages, editable ones too; plug-in systems read them all
_METADATA = (".egg-info", ".dist-info")
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/lib/", "/usr/share/")
#: Events after which the code may know what no event tells, and how that is said.
_UNSEEN = {
    **dict.fromkeys(("subprocess.Popen", "os.posix_spawn", "os.system", "os.exec"), "another program"),
    **dict.fromkeys(("os.fork", "os.forkpty"), "another process"),
    **dict.fromkeys(("socket.connect", "socket.sendto", "socket.bind"), "the network"),
    **dict.fromkeys(("socket.getaddrinfo", "socket.gethostbyname"), "the network"),
    "sqlite3.connect": "a database",
    "ctypes.dlopen": "a library of its own",
}
#: Packages with native code that opens files by way of Python, or by the functions of ``_NATIVE``.
_FOLLOWED = {
    *("torch", "functorch", "torchgen", "numpy", "onnx", "onnx_ir", "onnxscript", "ml_dtypes", "safetensors", "google"),
    *("pydantic_core", "yaml", "_yaml", "regex", "markupsafe", "scipy", "PIL", "gmpy2", "triton"),
    *("sklearn", "joblib", "threadpoolctl", "pycocotools"),
}
#: What opens the file that is its first argument in native code: (module, function or class).
_NATIVE = (
    ("safetensors", "safe_open"),
    ("torch._C", "PyTorchFileReader"),
    ("torch", "from_file"),
    ("torch.UntypedStorage", "from_file"),
)
#: Functions that ask ``os.stat`` only what kind of file is there, by the module that they are in.
_KIND_ONLY = {
    "genericpath": {"exists", "isfile", "isdir", "lexists", "islink"},
    "posixpath": {"exists", "isfile", "isdir", "lexists", "islink", "realpath", "_joinrealpath", "ismount"},
    "pathlib": {"exists", "is_file", "is_dir", "is_symlink", "is_mount", "resolve", "_exists"},
    "glob": {"_lexists", "_isdir", "_exists", "_is_dir"},
    "linecache": {"checkcache", "updatecache"},  # asks about files whose content it reads
    "inspect": {"getsourcefile"},
    "importlib._bootstrap_external": {"_path_stat"},
}
#: What of them does as the user's code tells it.
_FOR_THE_USER = {"torch.hub"}
_STANDARD = (*{sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib")}, "<frozen")
_PACKAGES = tuple({sysconfig.get_paths()[name] for name in ("purelib", "platlib")})
#: Modules that list a folder for names and kinds alone.
_NAMES_ONLY = {"glob", "pathlib", "os", "fnmatch", "shutil"}


class FileTracker:
    """While entered, records what Python code reads: regular files, modules, listings, variables; except those of the
    system, the interpreter, installed packages and trtpipe itself.

    Audit hooks cannot be removed, so use it in a child process only.

    Args:
        own: a folder whose files are not recorded: the work folder.
    """

    def __init__(self, own: Path | None = None) -> None:
        self._own = () if own is None else (own, own.resolve())
        self._opened: set[str] = set()
        self._asked: set[str] = set()
        self._measured: set[str] = set()
        self._listed: set[str] = set()
        self._variables: set[str] = set()
        self._unseen: set[str] = set()
        self._active = False
        self._before: set[str] = set()
        self._native: set[str] = set()
        self._unannounced = list(_NATIVE)
        self._replaced: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> FileTracker:
        self._before = set(sys.modules)
        self._native = _unfollowed()
        sys.addaudithook(self._hook)
        self._announce()
        self._watch_imports()
        for name in ("stat", "lstat", "access", "readlink"):
            self._replace(os, name, self._asking(getattr(os, name)))
        self._watch_environment()
        self._active = True
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._active = False
        while self._replaced:
            place, name, before = self._replaced.pop()
            setattr(place, name, before)

    def _replace(self, place: Any, name: str, function: Callable[..., Any]) -> None:
        self._replaced.append((place, name, getattr(place, name)))
        setattr(place, name, function)

    def observed(self) -> Observed:
        """What was read, by absolute paths; each path in the strongest sense in which it counts."""
        files = {getattr(sys.modules.get(name), "__file__", None) for name in set(sys.modules) - self._before}
        outside = (*_installed_roots(), *self._own)
        read = {path for path in (*self._opened, *files) if path and _counts(path, outside)}
        present = {path for path in read if Path(path).is_file()}
        asked = {path for path in self._asked if _counts(path, outside)} | read - present
        measured = {path for path in self._measured if _counts(path, outside)}
        listed = {path for path in self._listed if _counts(path, outside)}
        if not all(map(_is_text, (*present, *asked, *measured, *listed, *self._variables))):
            return Observed(unseen=("names that are not text",))
        return Observed(
            files=tuple(sorted(present)),
            asked=tuple(sorted(asked - measured)),
            measured=tuple(sorted(measured)),
            listed=tuple(sorted(listed)),
            variables=tuple(sorted(self._variables)),
            unseen=tuple(sorted(self._unseen)),
        )

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event == "open":
            self._open(*args)
        elif event in ("os.listdir", "os.scandir"):
            self._list(args[0])
        elif event == "import" and args[1] is not None:
            self._load(str(args[0]), str(args[1]))
        elif event in _UNSEEN and _by_the_user(sys._getframe(1)):
            self._unseen.add(_UNSEEN[event])

    def _open(self, path: Any, mode: Any, flags: Any) -> None:
        writing = isinstance(mode, str) and any(letter in mode for letter in "wax+")
        if writing or (mode is None and isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
            return
        if isinstance(path, str | bytes | os.PathLike):
            self._opened.add(_absolute(path))

    def _list(self, path: Any) -> None:
        frame = sys._getframe(2)
        if not _by_the_user(frame):
            return  # an import among others: what it finds is a module, which is recorded as one
        if isinstance(path, int):
            self._unseen.add("files relative to an open folder")
            return
        found = _absolute(path or ".")
        self._listed.add(found)
        if _module(frame) not in _NAMES_ONLY:
            self._measured.add(os.path.join(found, "*"))  # noqa: PTH118

    def _load(self, name: str, file: str) -> None:
        """A module of native code is imported; those of the standard library open no files but for databases."""
        package = name.partition(".")[0]
        if file.startswith(_STANDARD) and not file.startswith(_PACKAGES):
            if package in ("_dbm", "_gdbm"):
                self._unseen.add("a database")
        elif package not in _FOLLOWED and _loaded_by_the_user(sys._getframe(2)):
            self._unseen.add(f"the native code of {package}")

    def _watch_imports(self) -> None:
        """See imports of what is loaded already, which no event reports, and announce what is loaded from now on."""
        statement, function = builtins.__import__, importlib.import_module

        def watch(name: str) -> None:
            if self._active and name.partition(".")[0] in self._native and _loaded_by_the_user(sys._getframe(2)):
                self._unseen.add(f"the native code of {name.partition('.')[0]}")

        def imported(name: str, *args: Any, **options: Any) -> Any:
            watch(name)
            found = statement(name, *args, **options)
            if self._unannounced:
                self._announce()
            return found

        def import_module(name: str, package: str | None = None) -> Any:
            watch(name)
            found = function(name, package)
            self._announce()
            return found

        self._replace(builtins, "__import__", imported)
        self._replace(importlib, "import_module", import_module)

    def _announce(self) -> None:
        """Have functions that open files in native code report them, as far as they are loaded."""
        waiting, self._unannounced = self._unannounced, []
        self._unannounced += [(module, name) for module, name in waiting if not _announced(module, name)]

    def _asking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``os.stat`` and its like, recording what they are asked about."""

        def asking(path: Any, *args: Any, **options: Any) -> Any:
            if self._active and not isinstance(path, int):
                if options.get("dir_fd") is not None:
                    self._unseen.add("files relative to an open folder")
                else:
                    self._ask(path, sys._getframe(1))
            return function(path, *args, **options)

        return asking

    def _ask(self, path: Any, frame: FrameType) -> None:
        if isinstance(path, str | bytes | os.PathLike) and _by_the_user(frame):
            (self._asked if _asks_for_the_kind(frame) else self._measured).add(_absolute(path))

    def _watch_environment(self) -> None:
        variables = type(environment())
        get, iterate = variables.__getitem__, variables.__iter__
        seen = self._variables

        def getitem(mapping: Any, key: Any) -> Any:
            if self._active and isinstance(key, str | bytes) and _by_the_user(sys._getframe(1)):
                seen.add(os.fsdecode(key))
            return get(mapping, key)

        def iterating(mapping: Any) -> Any:
            if self._active and _by_the_user(sys._getframe(1)):
                seen.add("*")
            return iterate(mapping)

        self._replace(variables, "__getitem__", getitem)  # every reference to it is of this class
        self._replace(variables, "__iter__", iterating)


def _unfollowed() -> set[str]:
    """Packages with native code that are loaded and may open files by themselves."""
    files = ((name.partition(".")[0], getattr(module, "__file__", None)) for name, module in tuple(sys.modules.items()))
    native = {name for name, file in files if file and file.endswith(".so") and file.startswith(_PACKAGES)}
    return native - _FOLLOWED


def _announced(module: str, name: str) -> bool:
    """Have a function, or a class, that opens its first argument in native code raise the audit event for it; false
    while it is not loaded.
    """
    package, *parts = module.split(".")
    place: Any = sys.modules.get(package)
    if place is None or getattr(place.__spec__, "_initializing", False):
        return False
    for part in parts:
        place = getattr(place, part)
    native = getattr(place, name)

    def announced(file: Any, *args: Any, **options: Any) -> Any:
        if isinstance(file, str | bytes | os.PathLike):
            sys.audit("open", os.fspath(file), "rb", 0)
        return native(file, *args, **options)

    if isinstance(native, type) and name != "safe_open":  # others ask whether something is one of these
        initialize: Callable[..., None] = vars(native)["__init__"]

        def begin(self: Any, file: Any, *args: Any, **options: Any) -> None:
            if isinstance(file, str | bytes | os.PathLike):
                sys.audit("open", os.fspath(file), "rb", 0)
            initialize(self, file, *args, **options)

        setattr(place, name, type(name, (native,), {"__init__": begin}))
    else:
        setattr(place, name, announced)
    return True


def _is_text(name: str) -> bool:
    """Whether a name is valid UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _absolute(path: Any) -> str:
    return os.path.abspath(os.fsdecode(path))  # noqa: PTH100  must not resolve or stat here


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _asks_for_the_kind(frame: FrameType | None) -> bool:
    """Whether a question about a file is only whether it is there, and what it is."""
    for _ in range(4):
        if frame is None:
            return False
        if frame.f_code.co_name in _KIND_ONLY.get(_module(frame), ()):
            return True
        if _module(frame) != "pathlib":
            return False
        frame = frame.f_back
    return False


def _by_the_user(frame: FrameType | None) -> bool:
    """Whether the user's code, or a package that it uses, does what is being done, and not torch, trtpipe or an import
    for reasons of their own.
    """
    for each in _above(frame):
        module = _module(each)
        if module.startswith(("trtpipe.", "_frozen_importlib", "importlib.")):
            return False
        if module.partition(".")[0] in _FOLLOWED and module not in _FOR_THE_USER:
            return False
        if not each.f_code.co_filename.startswith(_STANDARD):
            return True
    return False


def _loaded_by_the_user(frame: FrameType | None) -> bool:
    """Whether it is the user's code that imports what is being imported."""
    for each in _above(frame):
        module, file = _module(each), each.f_code.co_filename
        if module.startswith("trtpipe.") or module.partition(".")[0] in _FOLLOWED:
            return False
        if not file.startswith((*_STANDARD, *_PACKAGES)):
            return True
    return False


def _above(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and its callers, without the wrappers here."""
    while frame is not None:
        if frame.f_code.co_filename != __file__:
            yield frame
        frame = frame.f_back


def _counts(path: str, outside: tuple[Path, ...]) -> bool:
    """Whether a path is the user's: neither the system's nor of an installed package, nor compiled code."""
    found = Path(path)
    if found.parent.name == "__pycache__" or found.name == "__pycache__":  # it holds the time of its source
        return False
    if f"{path}/".startswith(_SYSTEM) or found.parent.suffix in _METADATA:
        return False
    return not any(found == root or found.is_relative_to(root) for root in outside)


def _installed_roots() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    roots = {Path(sysconfig.get_paths()[name]) for name in names} | {Path(__file__).parent.parent}
    roots |= {Path(trtpipe.__file__).parent} if trtpipe.__file__ else set()
    return tuple(roots | {root.resolve() for root in roots})
