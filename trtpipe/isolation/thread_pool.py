"""Several tasks at once, each waiting for a child process in a thread of its own.

Progress is reported in the caller's thread. When the caller is interrupted, or a task fails in a way that stops the
run, the children of the others are ended first.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from trtpipe.progress import Stoppable

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from trtpipe.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Task(Generic[T]):
    """A task, and the name that prefixes its progress reports."""

    name: str
    work: Callable[[Progress], T]


@dataclass(frozen=True)
class TaskResult(Generic[T]):
    """The outcome of the task at ``index``: its result or what it raised, and the seconds it took."""

    index: int
    result: T | None
    error: Exception | None
    seconds: float


def run_tasks(tasks: Sequence[Task[T]], at_once: int, progress: Progress) -> Generator[TaskResult[T], None, None]:
    """Run the tasks, at most ``at_once`` at a time and started in order; yield outcomes as they complete.

    With one at a time they run in the caller's thread. Closing the iterator ends the tasks that still run.
    """
    if at_once < 2 or len(tasks) < 2:
        for index, task in enumerate(tasks):
            yield _outcome(index, task, progress)
        return
    events: queue.Queue[Callable[[Progress], None] | TaskResult[T]] = queue.Queue()
    stop = threading.Event()

    def work(index: int, task: Task[T]) -> None:
        if not stop.is_set():
            events.put(_outcome(index, task, _Relay(task.name, events.put, stop, progress)))

    with ThreadPoolExecutor(at_once) as pool:
        try:
            for index, task in enumerate(tasks):
                pool.submit(work, index, task)
            left = len(tasks)
            while left:
                event = events.get()
                if isinstance(event, TaskResult):
                    left -= 1
                    yield event
                else:
                    event(progress)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


class _Relay:
    """Forwards progress to the caller's thread, prefixed with the task's name."""

    def __init__(
        self,
        name: str,
        put: Callable[[Callable[[Progress], None]], None],
        stop: threading.Event,
        listener: Progress,
    ) -> None:
        self._name = name
        self._put = put
        self._stop = stop
        self._listener = listener

    @property
    def stopped(self) -> bool:
        """Whether the work, or the whole run, was cancelled."""
        return self._stop.is_set() or (isinstance(self._listener, Stoppable) and self._listener.stopped)

    def begin(self, step: str) -> None:
        self._put(lambda progress: progress.begin(step))

    def advance(self, phase: str, done: int, total: int | None) -> None:
        self._put(lambda progress: progress.advance(f"{self._name}: {phase}", done, total))

    def note(self, message: str) -> None:
        self._put(lambda progress: progress.note(message))

    def warn(self, message: str) -> None:
        self._put(lambda progress: progress.warn(message))

    def end(self, step: str, outcome: str) -> None:
        self._put(lambda progress: progress.end(step, outcome))


def _outcome(index: int, task: Task[T], progress: Progress) -> TaskResult[T]:
    begin = time.perf_counter()
    try:
        result = task.work(progress)
    except Exception as error:  # noqa: BLE001  the caller decides what it means
        return TaskResult(index, None, error, time.perf_counter() - begin)
    return TaskResult(index, result, None, time.perf_counter() - begin)
