"""Tasks that fail in a worker process, for real: a crash is a crash, and the memory is taken.

The null back-end runs them instead of its build (``NullBehavior.task``), and the tests of ``worker.call`` directly.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from trtpipe.backends.null import NullRequest, build_task
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import BuildError
from trtpipe.isolation.worker import Report

Task: TypeAlias = Callable[[NullRequest, Report], EngineRecord]

_PIECE = 16 << 20
_PETABYTE = 1 << 50
_GULP = 100 << 30


def fault(name: str) -> str:
    """The dotted name of the task called ``name`` here."""
    return f"{__name__}:{name.replace('-', '_')}"


def _task(go_wrong: Callable[[], None]) -> Task:
    def task(request: NullRequest, report: Report) -> EngineRecord:
        report("building", 0, 1)
        go_wrong()
        raise AssertionError(f"{go_wrong.__name__} returned")

    return task


@_task
def fail() -> None:
    raise BuildError("the build failed on purpose", "do not inject a fault")


@_task
def bug() -> None:
    raise ValueError("a bug on purpose")


@_task
def crash() -> None:
    """SIGSEGV."""
    os.write(2, b"about to read address 8\n")
    ctypes.string_at(8)


abort = _task(os.abort)


@_task
def divide() -> None:
    """SIGFPE."""
    ctypes.CDLL(None).div(1, 0)
    os.kill(os.getpid(), signal.SIGFPE)  # on processors that divide by zero without a trap


@_task
def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@_task
def hang() -> None:
    while True:
        time.sleep(3600)


@_task
def leak() -> None:
    """Take more and more memory."""
    taken: list[bytearray] = []
    while True:
        taken.append(bytearray(b"x") * _PIECE)


@_task
def huge() -> None:
    """Ask for a petabyte at once."""
    bytearray(_PETABYTE)


@_task
def gulp() -> None:
    """Take 100 GB as fast as possible."""
    block = mmap.mmap(-1, _GULP)
    for at in range(0, _GULP, mmap.PAGESIZE):
        block[at] = 1


@_task
def chatter() -> None:
    """Print without end."""
    while True:
        os.write(2, b"a line without end\n" * 1000)


@_task
def vanish() -> None:
    """Exit with status 0 and no reply."""
    os._exit(0)


@_task
def garble() -> None:
    """Exit with status 0 and half a reply."""
    Path(tempfile.gettempdir(), "reply.json").write_text('{"kind": "do', encoding="utf-8")
    os._exit(0)


@_task
def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "engine.plan")


@_task
def full_device() -> None:
    Path("/dev/full").write_bytes(b"engine")


def no_file(request: NullRequest, report: Report) -> EngineRecord:
    """Report success without writing the plan."""
    record = build_task(request, report)
    Path(request.plan).unlink()
    return record


def short_file(request: NullRequest, report: Report) -> EngineRecord:
    """Report success and leave an empty plan."""
    record = build_task(request, report)
    Path(request.plan).write_bytes(b"")
    return record
