"""Confinement of child processes to their inputs, their work folder and the system's libraries.

Landlock (https://docs.kernel.org/userspace-api/landlock.html) confines files, and needs no privileges; seccomp allows
the system calls of a list, which has no sockets; capabilities and the environment are given up. All of it is one-way:
nothing the process does later undoes it. What the kernel does not have is left out; ``doctor`` reports what is active.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.config.settings import reduce_environment
from trtpipe.isolation.linux import checked, drop_capabilities, forget_environment
from trtpipe.isolation.seccomp import filter_calls, has_seccomp

if TYPE_CHECKING:
    from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on all machines but Alpha
_VERSION, _PATH_BENEATH = 1, 1
_NO_NEW_PRIVILEGES = 38
#: Rights on files, as the kernel numbers them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_READING = _EXECUTE | _READ_FILE | _READ_DIR
#: Remove folders and files; make folders, files and links. Devices, pipes and sockets cannot be made anywhere.
_MAKE_AND_REMOVE = sum(1 << bit for bit in (4, 5, 7, 8, 12))
_MAKE_OTHERS = sum(1 << bit for bit in (6, 9, 10, 11))
#: Version of Landlock that introduced a right.
_REFER_SINCE, _TRUNCATE_SINCE, _TCP_SINCE, _SCOPES_SINCE = 2, 3, 4, 6
_BIND_AND_CONNECT, _SIGNALS_AND_ABSTRACT_SOCKETS = 3, 3
#: Folders of interpreters and libraries, what the loader and the locale need, and what libraries read of the machine.
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/opt")
_ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ld.so.preload",
    "localtime",
    "timezone",
    "locale.alias",
    "locale.conf",
    "ssl/openssl.cnf",
)  # the last is read by OpenSSL, which hashlib loads
_SYS = ("devices/system", "devices/soc0", "fs/cgroup", "kernel/mm")
#: A child sees no process but itself, and of itself neither the environment nor the memory.
_PROC = ("cpuinfo", "meminfo", "stat", "version", "filesystems", "loadavg", "sys/vm")
_PROC_SELF = ("cgroup", "comm", "exe", "fd", "limits", "maps", "mountinfo", "mounts", "stat", "statm", "status")
_DEVICES = ("null", "zero", "urandom")


def landlock_version() -> int:
    """Version of the kernel's Landlock; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    with suppress(OSError, AttributeError):
        return max(int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)), 0)
    return 0


def protections() -> tuple[str, ...]:
    """What a confined child has no access to here: ``files``, ``network``, ``system calls``, ``environment``,
    ``privileges``.
    """
    able = (("files", bool(landlock_version())), ("network", has_seccomp()), ("system calls", has_seccomp()))
    everywhere = ("environment", "privileges") if sys.platform == "linux" else ()
    return (*(name for name, here in able if here), *everywhere)


def confine(reads: Iterable[str], writes: Iterable[str]) -> None:
    """Confine this process and all it starts, irrevocably: to reading ``reads`` and the system, and writing ``writes``.

    Must be called before threads are started. What the kernel does not support is left out.

    Raises:
        OSError: the kernel supports it, and refuses.
    """
    if sys.platform != "linux":
        return
    import resource

    libc = ctypes.CDLL(None, use_errno=True)
    reduce_environment()
    forget_environment()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    checked(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    if version := landlock_version():
        _restrict_files(libc, version, reads, writes)
    drop_capabilities(libc)
    if has_seccomp():
        filter_calls(libc)


def _restrict_files(libc: ctypes.CDLL, version: int, reads: Iterable[str], writes: Iterable[str]) -> None:
    writing = _WRITE_FILE | _MAKE_AND_REMOVE
    writing |= _REFER * (version >= _REFER_SINCE) | _TRUNCATE * (version >= _TRUNCATE_SINCE)
    fields = [_READING | writing | _MAKE_OTHERS]
    if version >= _TCP_SINCE:
        fields.append(_BIND_AND_CONNECT)
    if version >= _SCOPES_SINCE:
        fields.append(_SIGNALS_AND_ABSTRACT_SOCKETS)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = checked(libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    try:
        for path in {*_SYSTEM, *_files_read(), *_interpreter(), *reads}:
            _allow(libc, ruleset, path, _READING)
        for name in _DEVICES:
            _allow(libc, ruleset, f"/dev/{name}", _READ_FILE | _WRITE_FILE | writing & _TRUNCATE)
        for path in writes:
            _allow(libc, ruleset, path, _READING | writing)
        checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    """Add a rule; a path that does not exist needs none."""
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not Path(path).is_dir():
            rights &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
        rule = struct.pack("=Qi", rights, handle)
        checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(handle)


def _files_read() -> set[str]:
    """Single files and folders of the system, by absolute path."""
    folders = {"/etc": _ETC, "/sys": _SYS, "/proc": _PROC, "/proc/self": _PROC_SELF}
    return {f"{folder}/{name}" for folder, names in folders.items() for name in names}


def _interpreter() -> set[str]:
    """Folders that this interpreter imports from. An empty entry means the working folder, of which only this package,
    if it is there, is included.
    """
    own = str(Path(__file__).resolve().parents[1])
    return {path for path in (*sys.path, sys.prefix, sys.base_prefix, sys.exec_prefix, own) if path}
