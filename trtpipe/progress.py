"""How long work reports on itself. The command line draws it; a library caller may listen or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


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


def track(progress: Progress, phase: str, items: Iterable[T], total: int | None) -> Iterator[T]:
    """Yield ``items`` and report each one as done after the consumer has finished with it."""
    progress.advance(phase, 0, total)
    for count, item in enumerate(items, start=1):
        yield item
        progress.advance(phase, count, total)
