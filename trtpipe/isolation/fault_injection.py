"""Ways for a task to go wrong, for real: what the null back-end does when it is told to.

Each function runs in a worker process. None of them pretends: the crash is a crash, the memory is taken.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, TypeAlias

from trtpipe.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable

Misbehavior: TypeAlias = Literal[
    "fail",
    "bug",
    "crash",
    "abort",
    "divide",
    "killed",
    "hang",
    "hog",
    "huge",
    "gulp",
    "chatter",
    "vanish",
    "garble",
    "full-disk",
    "full-device",
    "no-file",
    "short-file",
]

_PIECE = 16 << 20
_HUGE = 1 << 50
_GULP = 100 << 30


def misbehave(how: Misbehavior) -> NoReturn:
    """Go wrong in the way called ``how``; never returns.

    ``fail`` raises BuildError; ``bug`` raises ValueError; ``crash``, ``abort``, ``divide`` and ``killed`` end by
    SIGSEGV, SIGABRT, SIGFPE and SIGKILL; ``hang`` sleeps; ``hog`` takes more and more memory; ``huge`` asks for a
    petabyte at once; ``gulp`` takes 100 GB as fast as it can; ``chatter`` prints without end; ``vanish`` exits well
    but without an answer; ``garble`` with half of one; ``full-disk`` reports a full disk, ``full-device`` meets one.
    ``no-file`` and ``short-file`` are the back-end's own affair: it says that it is done, and is not.
    """
    _WAYS[how]()
    raise AssertionError(f"{how} returned")


def _fail() -> None:
    raise BuildError("the null back-end was told to fail", "tell it to succeed")


def _bug() -> None:
    raise ValueError("the null back-end was told to have a bug")


def _crash() -> None:
    os.write(2, b"about to read address 8\n")
    ctypes.string_at(8)


def _divide() -> None:
    ctypes.CDLL(None).div(1, 0)
    os.kill(os.getpid(), signal.SIGFPE)  # on processors whose division does not mind


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    while True:
        time.sleep(3600)


def _hog() -> None:
    taken: list[bytearray] = []
    while True:
        taken.append(bytearray(b"x") * _PIECE)


def _huge() -> None:
    bytearray(_HUGE)


def _gulp() -> None:
    block = mmap.mmap(-1, _GULP)
    for at in range(0, _GULP, mmap.PAGESIZE):
        block[at] = 1


def _chatter() -> None:
    while True:
        os.write(2, b"the null back-end was told to chatter\n" * 1000)


def _vanish() -> None:
    os._exit(0)


def _garble() -> None:
    Path(tempfile.gettempdir(), "reply.json").write_text('{"kind": "do', encoding="utf-8")
    os._exit(0)


def _full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "engine.plan")


def _full_device() -> None:
    Path("/dev/full").write_bytes(b"engine")


_WAYS: dict[Misbehavior, Callable[[], None]] = {
    "fail": _fail,
    "bug": _bug,
    "crash": _crash,
    "abort": os.abort,
    "divide": _divide,
    "killed": _killed,
    "hang": _hang,
    "hog": _hog,
    "huge": _huge,
    "gulp": _gulp,
    "chatter": _chatter,
    "vanish": _vanish,
    "garble": _garble,
    "full-disk": _full_disk,
    "full-device": _full_device,
}
