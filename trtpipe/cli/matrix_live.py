"""A matrix on a terminal: what is running, and how much is done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trtpipe.config.units import format_seconds, printable

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import RenderableType

_ROWS = 20


class MatrixLive:
    """A table of running tasks, below what was said; it is gone afterwards."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(get_renderable=self._draw, console=self._console, transient=True, refresh_per_second=4)
        self._running: dict[str, float] = {}
        self._done: dict[str, int] = {"built": 0, "hit": 0, "failed": 0}
        self._begin = time.monotonic()

    def __enter__(self) -> MatrixLive:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def begin(self, step: str) -> None:
        """A task starts."""
        self._running[step] = time.monotonic()

    def advance(self, phase: str, done: int, total: int | None) -> None:
        """Tasks do not say how far they are."""

    def note(self, message: str) -> None:
        """Said above the table."""
        self._console.print(Text(printable(message)))

    def warn(self, message: str) -> None:
        """Likewise."""
        self._console.print(Text(f"warning: {printable(message)}", style="yellow"))

    def end(self, step: str, outcome: str) -> None:
        """A task is over."""
        self._running.pop(step, None)
        self._done[outcome] = self._done.get(outcome, 0) + 1

    def _draw(self) -> RenderableType:
        now = time.monotonic()
        rows = Table.grid(padding=(0, 2))
        for step, since in list(self._running.items())[:_ROWS]:
            rows.add_row(Text(printable(step)), Text(format_seconds(now - since)))
        done = ", ".join(f"{count} {word}" for word, count in self._done.items())
        return Group(rows, Text(f"{len(self._running)} running, {done}, {format_seconds(now - self._begin)}"))
