"""Progress as plain lines: for pipes, for CI logs and for the log file."""

from __future__ import annotations

import errno
import gc
import os
import time
from datetime import datetime
from typing import TYPE_CHECKING

from trtpipe.cli.text import complain
from trtpipe.config.units import format_seconds, printable
from trtpipe.errors import InputError
from trtpipe.progress import OUTCOMES, phase_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trtpipe.progress import Progress

#: Seconds between two lines of one phase: often enough for a CI that ends silent jobs.
_HEARTBEAT = 10.0
#: Seconds of a phase after which its remaining time is told.
_FORESEEABLE = 2.0


class Lines:
    """Writes one line for each thing worth knowing.

    Args:
        write: takes one line.
        verbosity: below 0 only warnings; above 0 also a line for every phase.
    """

    def __init__(self, write: Callable[[str], None], verbosity: int = 0) -> None:
        self._write = write
        self._verbosity = verbosity
        self._step = ""
        self._phase = ""
        self._started = self._entered = self._spoke = time.monotonic()

    def begin(self, step: str) -> None:
        """Remember the step; a cached one gets no line for its beginning."""
        self._step, self._phase = step, ""
        self._started = self._entered = self._spoke = time.monotonic()

    def advance(self, phase: str, done: int, total: int | None) -> None:
        """A line when work on the step really begins, and one every few seconds after that."""
        now = time.monotonic()
        first = not self._phase
        new = phase != self._phase
        if new:
            self._phase, self._entered = phase, now
        if first or (new and self._verbosity > 0) or now - self._spoke >= _HEARTBEAT:
            self._spoke = now
            self._say(f"{self._step}: {_words(self._step, phase, done, total, now - self._entered)}")

    def note(self, message: str) -> None:
        self._say(f"note: {printable(message)}")

    def warn(self, message: str) -> None:
        self._write(f"warning: {printable(message)}")

    def end(self, step: str, outcome: str) -> None:
        """One line, with the time it took."""
        took = "" if outcome == "hit" else f" in {format_seconds(time.monotonic() - self._started)}"
        self._say(f"{step}: {OUTCOMES.get(outcome, outcome)}{took}")

    def _say(self, line: str) -> None:
        if self._verbosity >= 0:
            self._write(line)


class Several:
    """Passes everything on to several listeners."""

    def __init__(self, listeners: Sequence[Progress]) -> None:
        self._listeners = tuple(listeners)

    def begin(self, step: str) -> None:
        for listener in self._listeners:
            listener.begin(step)

    def advance(self, phase: str, done: int, total: int | None) -> None:
        for listener in self._listeners:
            listener.advance(phase, done, total)

    def note(self, message: str) -> None:
        for listener in self._listeners:
            listener.note(message)

    def warn(self, message: str) -> None:
        for listener in self._listeners:
            listener.warn(message)

    def end(self, step: str, outcome: str) -> None:
        for listener in self._listeners:
            listener.end(step, outcome)


class Settling:
    """Takes what is there after a step, modules above all, out of all later garbage collections.

    Each collection looks at every object, and one is due whenever a large model is dropped. Only for a process that is
    ours alone: what becomes garbage later, and is in a circle, stays.
    """

    def begin(self, step: str) -> None: ...
    def advance(self, phase: str, done: int, total: int | None) -> None: ...
    def note(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...

    def end(self, step: str, outcome: str) -> None:
        """Where the step was real work: a cached one loads and leaves nothing."""
        if outcome == "built":
            gc.collect()
            gc.freeze()


class LogFile:
    """A file that is added to, one line at a time, each with its time.

    Raises:
        InputError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
            handle = os.open(
                path, flags | os.O_NONBLOCK, 0o666
            )  # without it, a pipe is waited for until it has a reader
            os.set_blocking(handle, True)
            self._stream = os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace", buffering=1)
        except OSError as error:
            known = {errno.ELOOP: "a link", errno.ENXIO: "a pipe that nobody reads"}
            reason = known.get(error.errno or 0, error.strerror)
            raise InputError(f"--log-file {path}: {reason}", "give a file in an existing folder") from error
        self._path = path

    def write(self, line: str) -> None:
        """Add ``line``; a log that cannot be written any more ends, but never ends the work."""
        if self._stream.closed:
            return
        try:
            self._stream.write(f"{datetime.now().astimezone().isoformat(timespec='milliseconds')} {line}\n")
        except OSError as error:
            complain(f"warning: {printable(str(self._path))}: the log ends here: {error.strerror}")
            self.close()

    def close(self) -> None:
        """Close the file; what cannot be flushed is lost."""
        try:
            self._stream.close()
        except OSError:
            complain(f"warning: {printable(str(self._path))}: the end of the log could not be written")


def _words(step: str, phase: str, done: int, total: int | None, seconds: float) -> str:
    """What a phase is at: ``building``, ``observing 128 of 512 (25 %), 3.0 s left``."""
    name = printable(phase_name(step, phase))
    if not done:
        return name or "running"
    count = f"{done} of {total} ({100 * done // total} %)" if total else str(done)
    if total and done < total and seconds >= _FORESEEABLE:
        count += f", {format_seconds(seconds * (total - done) / done)} left"
    return f"{name} {count}".lstrip()
