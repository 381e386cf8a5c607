"""How long work reports on itself. The command line draws it; a library caller may listen or not."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from trtpipe.errors import Cancelled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

#: How a step's outcome reads.
OUTCOMES = MappingProxyType({"hit": "cached", "built": "done", "failed": "FAILED"})


@runtime_checkable
class Progress(Protocol):
    """Listens to a run. Every method may be called from the thread that runs the pipeline only."""

    def begin(self, step: str) -> None:
        """A step (for example ``calibrate`` or ``compile sm89``) starts."""

    def advance(self, phase: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` units of the current step's ``phase`` are finished."""

    def note(self, message: str) -> None:
        """Something worth reading that needs no action."""

    def warn(self, message: str) -> None:
        """Something the user should act on although the run goes on."""

    def end(self, step: str, outcome: str) -> None:
        """The step is over: ``outcome`` is ``hit``, ``built`` or ``failed``."""


@runtime_checkable
class Stoppable(Protocol):
    """A listener that may stop listening: whoever waits for a child process ends it then."""

    @property
    def stopped(self) -> bool: ...


class NullProgress:
    """A Progress that reports nothing."""

    def begin(self, step: str) -> None: ...
    def advance(self, phase: str, done: int, total: int | None) -> None: ...
    def note(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...
    def end(self, step: str, outcome: str) -> None: ...


class StoppableProgress:
    """Passes everything on to another listener until the run is to end: then whoever reports to it next gets
    ``Cancelled``, and child processes are ended.

    Args:
        listener: default: none.

    Example:
        >>> progress = StoppableProgress()
        >>> progress.stop()
        >>> progress.begin("export")
        Traceback (most recent call last):
        trtpipe.errors.Cancelled: cancelled before the run was done
    """

    def __init__(self, listener: Progress | None = None) -> None:
        self._listener = listener or NullProgress()
        self._stop = threading.Event()

    def stop(self) -> None:
        """End the run that reports to this; may be called from any thread, and returns at once."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether the run is to end."""
        return self._stop.is_set()

    def begin(self, step: str) -> None:
        self._going().begin(step)

    def advance(self, phase: str, done: int, total: int | None) -> None:
        self._going().advance(phase, done, total)

    def note(self, message: str) -> None:
        self._going().note(message)

    def warn(self, message: str) -> None:
        self._going().warn(message)

    def end(self, step: str, outcome: str) -> None:
        self._listener.end(step, outcome)
        self._going()

    def _going(self) -> Progress:
        if self.stopped:
            raise Cancelled("cancelled before the run was done", "run it again: stages that were done are in the cache")
        return self._listener


@contextmanager
def step(progress: Progress, name: str) -> Iterator[None]:
    """Report what happens inside as one step."""
    progress.begin(name)
    try:
        yield
    except BaseException:
        progress.end(name, "failed")
        raise
    progress.end(name, "built")


def phase_name(step: str, phase: str) -> str:
    """How a phase is called beside its step: one that is called like the step adds nothing."""
    return "" if phase == step.partition(" ")[0] else phase


def track(progress: Progress, phase: str, items: Iterable[T], total: int | None) -> Iterator[T]:
    """Yield ``items`` and report each one as done after the consumer has finished with it."""
    progress.advance(phase, 0, total)
    for count, item in enumerate(items, start=1):
        yield item
        progress.advance(phase, count, total)
