"""Confinement of child processes to their inputs, their work folder and the system's libraries, without network.

Landlock (https://docs.kernel.org/userspace-api/landlock.html) confines files, and needs no privileges; seccomp refuses
sockets other than local ones. Both are one-way: nothing the process does later undoes them. Where the kernel has
neither, the child runs unconfined, and ``doctor`` reports it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on all machines but Alpha
_VERSION, _PATH_BENEATH = 1, 1
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
#: Rights on files, as the kernel numbers them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_READING = _EXECUTE | _READ_FILE | _READ_DIR
_MAKE_AND_REMOVE = sum(1 << bit for bit in range(4, 13))
#: Version of Landlock that introduced a right.
_REFER_SINCE, _TRUNCATE_SINCE, _TCP_SINCE, _SCOPES_SINCE = 2, 3, 4, 6
_BIND_AND_CONNECT, _SIGNALS_AND_ABSTRACT_SOCKETS = 3, 3
#: Folders of interpreters, libraries, drivers and of what they read about the machine.
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/opt", "/etc", "/sys", "/dev", "/run/nvidia-persistenced")
#: A child sees no process but itself, and of the machine what libraries read.
_PROC = (
    *("self", "cpuinfo", "meminfo", "stat", "version", "devices"),
    *("filesystems", "modules", "driver", "sys", "loadavg"),
)
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "nvidia*", "nvmap", "nvhost*", "nvgpu", "dri/*")
#: machine -> (audit architecture, number of the system call ``socket``)
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_IO_URING_SETUP = 425
_LOCAL, _NETLINK = 1, 16


def landlock_version() -> int:
    """Version of the kernel's Landlock; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    with suppress(OSError, AttributeError):
        return max(int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)), 0)
    return 0


def has_seccomp() -> bool:
    """Whether system calls can be filtered here."""
    known = sys.platform == "linux" and sys.byteorder == "little" and platform.machine() in _MACHINES
    return known and Path("/proc/sys/kernel/seccomp").is_dir()


def confine(reads: Iterable[str], writes: Iterable[str]) -> None:
    """Confine this process and all it starts, irrevocably: to reading ``reads`` and the system, and writing ``writes``.

    Must be called before threads are started. What the kernel does not support is left out.

    Raises:
        OSError: the kernel supports it, and refuses.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    version = landlock_version()
    if not version and not has_seccomp():
        return
    _checked(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    if version:
        _restrict_files(libc, version, reads, writes)
    if has_seccomp():
        _refuse_network(libc)


def _restrict_files(libc: ctypes.CDLL, version: int, reads: Iterable[str], writes: Iterable[str]) -> None:
    writing = _WRITE_FILE | _MAKE_AND_REMOVE
    writing |= _REFER * (version >= _REFER_SINCE) | _TRUNCATE * (version >= _TRUNCATE_SINCE)
    fields = [_READING | writing]
    if version >= _TCP_SINCE:
        fields.append(_BIND_AND_CONNECT)
    if version >= _SCOPES_SINCE:
        fields.append(_SIGNALS_AND_ABSTRACT_SOCKETS)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _checked(libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    try:
        for path in {*_SYSTEM, *(f"/proc/{name}" for name in _PROC), *_interpreter(), *reads}:
            _allow(libc, ruleset, path, _READING)
        for path in (str(path) for pattern in _DEVICES for path in Path("/dev").glob(pattern)):
            _allow(libc, ruleset, path, _READ_FILE | _WRITE_FILE | writing & _TRUNCATE)
        for path in writes:
            _allow(libc, ruleset, path, _READING | writing)
        _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
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
        _checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(handle)


def _interpreter() -> set[str]:
    """Folders that this interpreter imports from. An empty entry means the working folder, of which only this package,
    if it is there, is included.
    """
    own = str(Path(__file__).resolve().parents[1])
    return {path for path in (*sys.path, sys.prefix, sys.base_prefix, sys.exec_prefix, own) if path}


def _refuse_network(libc: ctypes.CDLL) -> None:
    """Filter system calls: sockets are local or talk to the kernel, or are refused with EACCES."""
    architecture, socket = _MACHINES[platform.machine()]
    load, equal, above, give = 0x20, 0x15, 0x35, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EACCES
    program = (
        (load, 0, 0, 4),  # the architecture
        (equal, 0, 9, architecture),
        (load, 0, 0, 0),  # the call's number
        (above, 6, 0, 0x40000000),  # the numbers of another calling convention
        (equal, 5, 0, _IO_URING_SETUP),  # it can open sockets without that call
        (equal, 0, 5, socket),
        (load, 0, 0, 16),  # the first argument: the family
        (equal, 3, 0, _LOCAL),
        (equal, 2, 0, _NETLINK),
        (give, 0, 0, refuse),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))
    _checked(libc.prctl(_SET_SECCOMP, _FILTER, ctypes.c_char_p(header), 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
