"""Progress on a terminal or in a notebook: finished steps stand still, the current one moves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from trtpipe.config.units import format_seconds, printable
from trtpipe.progress import OUTCOMES, phase_name

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Task

_STYLES = {"hit": "dim", "built": "green", "failed": "bold red"}
_STEP_WIDTH = 16


class Rate(ProgressColumn):
    """Units a second, where there are units."""

    def render(self, task: Task) -> Text:
        """The rate of the current phase."""
        return Text(f"{task.speed:.3g}/s" if task.speed and task.total else "", style="progress.data.speed")


class RichProgress:
    """A ``Progress`` that draws: one line a step, and a bar with rate and remaining time for its current phase.

    In a notebook the bar needs the package ipywidgets; without, the lines alone are shown. As a context manager it
    leaves the terminal as it was whatever happens inside.

    Args:
        console: where it is drawn; default: standard error, or the notebook's cell.

    Example:
        >>> with trtpipe.RichProgress() as progress:
        ...     result = trtpipe.build("model.onnx", "out", precision="fp16", targets=["sm89"], progress=progress)
    """

    def __init__(self, console: Console | None = None) -> None:
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.fields[step]}", markup=False),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True, highlight=False),
            transient=True,
        )
        self._task: TaskID | None = None
        self._step = ""
        self._started = time.monotonic()

    def __enter__(self) -> RichProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def begin(self, step: str) -> None:
        """Show the step with a spinner."""
        self._step, self._started = step, time.monotonic()
        self._bar.start()
        self._show("", None)

    def advance(self, phase: str, done: int, total: int | None) -> None:
        """Move the bar; a new phase starts a new one."""
        phase = printable(phase_name(self._step, phase))
        if self._task is None or self._bar.tasks[0].description != phase:
            self._show(phase, total)
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def note(self, message: str) -> None:
        """A gray line above the bar."""
        self._bar.console.print(Text(printable(message), style="dim"))

    def warn(self, message: str) -> None:
        """A yellow line above the bar."""
        self._bar.console.print(Text(f"warning: {printable(message)}", style="yellow"))

    def end(self, step: str, outcome: str) -> None:
        """The step's line, for good."""
        self._clear()
        self._bar.stop()
        took = "" if outcome == "hit" else format_seconds(time.monotonic() - self._started)
        line = Text(f"{step:<{_STEP_WIDTH}} ")
        line.append(f"{OUTCOMES.get(outcome, outcome):<15}", style=_STYLES.get(outcome, ""))
        line.append(took)
        self._bar.console.print(line)

    def _show(self, phase: str, total: int | None) -> None:
        self._clear()
        self._task = self._bar.add_task(phase, total=total, step=f"{self._step:<{_STEP_WIDTH}}")

    def _clear(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
