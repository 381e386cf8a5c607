"""How child processes end, and the typed error that each end becomes."""

from __future__ import annotations

import errno
import signal
import traceback
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

from pydantic import field_validator

import trtpipe.errors
from trtpipe.artifact import Record
from trtpipe.config.os_errors import address_space_limit
from trtpipe.config.units import format_bytes, format_seconds
from trtpipe.errors import (
    Cancelled,
    HostError,
    InternalError,
    OutOfMemory,
    OutOfTime,
    StageError,
    TrtpipeError,
    UserCodeError,
    WorkerCrashed,
    WorkerError,
    text_of,
)
from trtpipe.isolation.linux import address_space_is_full

#: Why a parent ends a child; empty if it does not.
Stop: TypeAlias = Literal["", "time", "memory", "cancelled"]
#: Exit status of a child that could not write its reply because the disk is full.
NO_SPACE_STATUS = 75
#: Exit status of a child whose connection to its parent was closed or replaced by the code that it ran.
DISCONNECTED_STATUS = 76
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EIO})
_MORE_MEMORY = (
    "use a machine with more memory, or raise TRTPIPE_WORKER_MEMORY_GB (of an engine build: memory_limit in [build])"
)
_MORE_TIME = "raise TRTPIPE_WORKER_SECONDS (of an engine build: time_limit in [build]), or make the model smaller"
_CRASHED = (
    "the model drives a native library into a bug: check it with onnx.checker, "
    "then remove or replace the nodes named last"
)
#: Lines unrelated to the cause: without a driver TensorRT repeats the first after every message.
_NOISE = ("cudaError 35", "CUDA lazy loading is not enabled")
#: What a process says that could not map memory.
_NO_ROOM = (
    *("std::bad_alloc", "MemoryError", "Cannot allocate memory", "cannot allocate memory", "failed to map segment"),
    *("can't start new thread", "Memory allocation still failed"),
)
_LAST_LINES, _LINE_LENGTH = 3, 200


class Outcome(Record):
    """What the child writes at the end of its task.

    Attributes:
        kind: ``done``, a TrtpipeError that the task raised (``error``), a lack of memory or disk space, a file
            that the system denied it, an interruption that the user's code raised, or any other exception (``bug``).
        reply: the task's reply, when done.
        error: the class of a TrtpipeError.
        message: the error's message; for ``space`` the file, for ``bug`` the traceback.
        unmapped: whether the process could hardly map any more memory.
    """

    kind: Literal["done", "error", "memory", "space", "denied", "interrupted", "bug"]
    reply: dict[str, Any] = {}
    error: str = ""
    message: str = ""
    remedy: str = ""
    unmapped: bool = False

    @field_validator("message", "remedy", mode="before")
    @classmethod
    def _is_text(cls, text: str) -> str:
        """Valid Unicode, whatever the user's code, or a file's name, put into it."""
        return text.encode("utf-8", "backslashreplace").decode()

    @classmethod
    def of_error(cls, error: BaseException, folder: str) -> Outcome:
        """Describe what the task raised; ``folder`` is named if a full disk's error names no file."""
        return cls._of(error, folder).model_copy(update={"unmapped": address_space_is_full()})

    @classmethod
    def _of(cls, error: BaseException, folder: str) -> Outcome:
        if isinstance(error, TrtpipeError):
            return cls(kind="error", error=_known_class(error), message=error.message, remedy=error.remedy)
        if isinstance(error, KeyboardInterrupt):
            return cls(kind="interrupted")
        if not isinstance(error, Exception):  # raised by the user's code
            message = f"it raised {type(error).__name__}: {text_of(error)}"
            return cls(kind="error", error=UserCodeError.__name__, message=message, remedy="raise an Exception instead")
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return cls(kind="memory", message=str(error))
        if isinstance(error, OSError) and error.errno in _FULL:
            return cls(kind="space", message=str(error.filename or folder))
        if isinstance(error, OSError) and error.errno == errno.EFBIG:  # shared memory counts as a file, too
            remedy = "raise the limit on the size of files (ulimit -f unlimited)"
            return cls(kind="denied", message=f"{error.strerror}: {error.filename or folder}", remedy=remedy)
        if isinstance(error, OSError) and error.errno in _DENIED:
            return cls(kind="denied", message=f"{error.strerror}: {error.filename or folder}")
        return cls(kind="bug", message="".join(traceback.format_exception(error)))


@dataclass(frozen=True)
class Ending:
    """How a child process ended.

    Attributes:
        status: its exit status; negative: the signal that ended it.
        stopped: why the parent ended it; empty if it ended by itself.
        limit: the limit it exceeded, in seconds or bytes.
        phase: the last phase it reported.
        output: the end of what it printed.
    """

    status: int
    stopped: Stop
    limit: float
    phase: str
    output: str

    @property
    def clean(self) -> bool:
        """Whether it ended by itself and without error, so that its reply counts."""
        return self.status == 0 and not self.stopped


def raise_from(outcome: Outcome, what: str) -> NoReturn:
    """Raise in the parent what the task raised in the child."""
    kind: type[TrtpipeError] | None = vars(trtpipe.errors)[outcome.error] if outcome.kind == "error" else None
    # Libraries say anything when they get no memory; what is wrong with the user's input is found without them.
    unclear = outcome.kind == "bug" or (kind is not None and kind.exit_code == StageError.exit_code)
    unmapped = outcome.kind == "memory" or (
        unclear and (outcome.unmapped or any(words in outcome.message for words in _NO_ROOM))
    )
    if unmapped and (limited := _limited(what)) is not None:
        raise limited
    if kind is not None:
        raise kind(outcome.message, outcome.remedy)
    if outcome.kind == "memory":
        detail = f" ({outcome.message})" if outcome.message else ""
        raise OutOfMemory(f"out of memory while {what}{detail}", _MORE_MEMORY)
    if outcome.kind == "space":
        raise _no_space(outcome.message, what)
    if outcome.kind == "interrupted":
        raise KeyboardInterrupt
    if outcome.kind == "denied":
        remedy = outcome.remedy or "check that path's owner and mode, and the disk"
        raise HostError(f"{outcome.message} while {what}", remedy)
    raise InternalError(f"an unexpected error while {what}:\n{outcome.message}")


def error_of(ending: Ending, what: str) -> TrtpipeError:
    """The error for a child that left no reply."""
    if ending.status == NO_SPACE_STATUS and not ending.stopped:
        return _no_space("the temporary folder", what)
    if (limited := _unmapped(ending, what)) is not None:
        return limited
    tail = last_lines(ending.output)
    said = f"; last output: {tail}" if tail else ""
    while_ = f"while {what}" + (f" (in phase {ending.phase!r})" if ending.phase else "")
    kind: type[WorkerError] = WorkerError
    if ending.stopped == "cancelled":
        kind, message, remedy = Cancelled, f"cancelled {while_}", "run the same command again"
    elif ending.stopped == "time":
        limit = format_seconds(ending.limit)
        kind, message, remedy = OutOfTime, f"stopped after the time limit of {limit} {while_}{said}", _MORE_TIME
    elif ending.stopped == "memory":
        limit = format_bytes(int(ending.limit))
        kind, message, remedy = OutOfMemory, f"stopped at the memory limit of {limit} {while_}{said}", _MORE_MEMORY
    elif ending.status == -signal.SIGKILL:
        message = f"killed (SIGKILL) {while_}; most likely the system ran out of memory{said}"
        kind, remedy = OutOfMemory, _MORE_MEMORY
    elif "std::bad_alloc" in ending.output:
        kind, message, remedy = OutOfMemory, f"out of memory {while_}", _MORE_MEMORY
    elif ending.status < 0:
        name = _signal_name(-ending.status)
        kind, message, remedy = WorkerCrashed, f"the worker process crashed ({name}) {while_}{said}", _CRASHED
    else:
        how = "without a reply" if ending.status == 0 else f"with exit status {ending.status}"
        message, remedy = f"the worker process ended {how} {while_}{said}", _CRASHED
    return kind(message, remedy, ending.phase)


def _unmapped(ending: Ending, what: str) -> HostError | None:
    """The error for a child that said that it could not map memory; ``None`` for others."""
    said = not ending.stopped and any(words in ending.output for words in _NO_ROOM)
    return _limited(what) if said else None


def _limited(what: str) -> HostError | None:
    """The error for memory that was there, and could not be mapped; ``None`` where mapping has no limit."""
    limit = address_space_limit()
    if limit is None:
        return None
    return HostError(
        f"out of memory while {what}: the address space is limited to {format_bytes(limit)} (ulimit -v)",
        "raise that limit: ulimit -v unlimited; TRTPIPE_WORKER_MEMORY_GB limits memory that is used",
    )


def user_error_of(ending: Ending, what: str, function: str) -> TrtpipeError:
    """The error for a child that left no reply while it ran ``function`` of the user."""
    remedy = "run the function by itself and fix it"
    if ending.stopped == "cancelled":
        return error_of(ending, what)
    if (limited := _unmapped(ending, what)) is not None:
        return limited
    if ending.stopped == "time":
        how = f"made no progress for {format_seconds(ending.limit)}"
        remedy = "fix the function if it hangs; if it needs longer, raise TRTPIPE_WORKER_SECONDS"
    elif ending.stopped == "memory":
        how = f"reached the memory limit of {format_bytes(int(ending.limit))}"
        remedy = "make the function hold less at a time, or raise TRTPIPE_WORKER_MEMORY_GB"
    elif ending.status == NO_SPACE_STATUS:
        return _no_space("the temporary folder", what)
    elif ending.status == DISCONNECTED_STATUS:
        how, remedy = "closed files that it had not opened", "have the function close only what it opened"
    elif ending.status == -signal.SIGKILL:
        how = "was killed (SIGKILL), by itself or because the system ran out of memory"
    elif ending.status < 0:
        how = f"crashed its process ({_signal_name(-ending.status)})"
    else:
        how = f"ended its process with exit status {ending.status}"
    tail = last_lines(ending.output)
    phase = f" (in phase {ending.phase!r})" if ending.phase else ""
    return UserCodeError(f"{function} {how} while {what}{phase}" + (f"; last output: {tail}" if tail else ""), remedy)


def last_lines(text: str) -> str:
    """The last relevant lines that a process printed, on one line, without control characters and known noise."""
    lines = ("".join(c if c.isprintable() else " " for c in line).strip() for line in text.splitlines())
    relevant = [line for line in lines if line and not any(noise in line for noise in _NOISE)]
    return " | ".join(line[:_LINE_LENGTH] for line in relevant[-_LAST_LINES:])


def _known_class(error: TrtpipeError) -> str:
    """The name of the nearest class of ``error`` in ``trtpipe.errors``, which the parent has too."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == trtpipe.errors.__name__)


def _no_space(where: str, what: str) -> HostError:
    return HostError(
        f"no space left on the device holding {where} while {what}", "free disk space, then run the same command again"
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
