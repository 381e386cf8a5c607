"""A filter of system calls: an allow-list for seccomp (https://docs.kernel.org/userspace-api/seccomp_filter.html)."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from pathlib import Path
from typing import TypeAlias

from trtpipe.isolation import system_calls as calls
from trtpipe.isolation.linux import checked

#: One instruction of the classic BPF: operation, offsets of the jumps if true and if false, operand.
Line: TypeAlias = tuple[int, int, int, int]

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _GIVE = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_SET_SECCOMP, _FILTER = 22, 2
_REFUSED: Line = (_GIVE, 0, 0, _ERROR | errno.EPERM)
_ALLOWED: Line = (_GIVE, 0, 0, _ALLOW)


def has_seccomp() -> bool:
    """Whether system calls can be filtered here."""
    known = sys.platform == "linux" and sys.byteorder == "little" and platform.machine() in calls.MACHINES
    return known and Path("/proc/sys/kernel/seccomp").is_dir()


def filter_calls(libc: ctypes.CDLL) -> None:
    """Let this process and all it starts make only the calls of ``system_calls``, for good.

    Others fail with EPERM. A call by another architecture's convention kills the process: its numbers mean other calls.

    Raises:
        OSError: the kernel refuses the filter.
    """
    lines = program(platform.machine(), os.getpid())
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    header = struct.pack("@HP", len(lines), ctypes.addressof(code))
    checked(libc.prctl(_SET_SECCOMP, _FILTER, ctypes.c_char_p(header), 0, 0))


def program(machine: str, process: int) -> list[Line]:
    """The filter for a process on a machine.

    The numbers are tried one after the other: the kernel remembers those that pass whatever their arguments.
    """
    architecture, column = calls.MACHINES[machine]
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_GIVE, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, calls.X32),
        (_GIVE, 0, 0, _KILL),
    ]
    for numbers in calls.ALLOWED.values():
        lines += _when(numbers[column], [_ALLOWED])
    one_of = (
        (calls.IOCTL, 1, calls.IOCTL_REQUESTS),
        (calls.FCNTL, 1, calls.FCNTL_COMMANDS),
        (calls.PRCTL, 0, calls.PRCTL_OPTIONS),
        (calls.KILL, 0, (process,)),
        (calls.TGKILL, 0, (process,)),
        (calls.PRLIMIT, 0, (0, process)),
    )
    for numbers, argument, values in one_of:
        tests = [line for value in values for line in _when(value, [_ALLOWED])]
        lines += _when(numbers[column], [_argument(argument), *tests, _REFUSED])
    lines += _when(calls.CLONE[column], [_argument(0), *_without(calls.CLONE_REFUSED)])
    for numbers, position in ((calls.OPEN, 1), (calls.OPENAT, 2)):  # the mode is behind the flags, and has no meaning
        creating = [_argument(position), (_ANY_BIT, 1, 0, calls.OPEN_CREATES), _ALLOWED]  # where no file is made
        lines += _when(numbers[column], [*creating, _argument(position + 1), *_without(calls.SET_IDENTITY)])
    lines += _when(calls.CREAT[column], [_argument(1), *_without(calls.SET_IDENTITY)])
    return [*lines, (_AT_LEAST, 0, 1, calls.LAST_REFUSED + 1), (_GIVE, 0, 0, _ERROR | errno.ENOSYS), _REFUSED]


def _when(value: int | None, then: list[Line]) -> list[Line]:
    """What to do if the loaded number is ``value``; ``then`` decides in every case."""
    return [] if value is None else [(_EQUAL, 0, len(then), value), *then]


def _without(bits: int) -> list[Line]:
    """Allow the call if the loaded argument has none of ``bits``."""
    return [(_ANY_BIT, 0, 1, bits), _REFUSED, _ALLOWED]


def _argument(position: int) -> Line:
    """Load the lower half of an argument, which is all that the kernel reads of an ``int``."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * position)
