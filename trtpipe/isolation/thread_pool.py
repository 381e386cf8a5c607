"""Several pieces of work at once, each waiting for a child process in a thread of its own.

What they report reaches the listener in the caller's thread. When the caller is interrupted, or one piece fails in a
way that stops the run, the children of the others are ended first.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from trtpipe.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Task(Generic[T]):
    """One piece of work, and what its reports are headed with."""

    name: str
    work: Callable[[Progress], T]


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of the task at ``index``: its result, or what it raised; and how long it ran."""

    index: int
    result: T | None
    error: Exception | None
    seconds: float


def run_tasks(tasks: Sequence[Task[T]], at_once: int, progress: Progress) -> Generator[Outcome[T], None, None]:
    """Run the tasks, at most ``at_once`` at a time and begun in their order; yield outcomes as they come.

    One at a time runs in the caller's thread. Closing the iterator ends what still runs.
    """
    if at_once < 2 or len(tasks) < 2:
        for index, task in enumerate(tasks):
            yield _outcome(index, task, progress)
        return
    yield from _Crew(tasks, at_once).run(progress)


class _Crew(Generic[T]):
    """Threads that take tasks until none is left."""

    def __init__(self, tasks: Sequence[Task[T]], size: int) -> None:
        self._tasks = tasks
        self._next = iter(range(len(tasks)))
        self._take = threading.Lock()
        self._stop = threading.Event()
        self._said: queue.Queue[Callable[[Progress], None] | Outcome[T]] = queue.Queue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(min(size, len(tasks)))]

    def run(self, progress: Progress) -> Iterator[Outcome[T]]:
        for thread in self._threads:
            thread.start()
        try:
            left = len(self._tasks)
            while left:
                said = self._said.get()
                if isinstance(said, Outcome):
                    left -= 1
                    yield said
                else:
                    said(progress)
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._take:
                index = next(self._next, None)
            if index is None:
                return
            task = self._tasks[index]
            self._said.put(_outcome(index, task, _Relay(task.name, self._said.put, self._stop)))


class _Relay:
    """Passes reports on to the thread that listens, headed with the task they come from."""

    def __init__(self, name: str, put: Callable[[Callable[[Progress], None]], None], stop: threading.Event) -> None:
        self._name = name
        self._put = put
        self._stop = stop

    @property
    def stopped(self) -> bool:
        """Whether nobody waits for the work any more."""
        return self._stop.is_set()

    def begin(self, step: str) -> None:
        """Pass on."""
        self._put(lambda progress: progress.begin(step))

    def advance(self, phase: str, done: int, total: int | None) -> None:
        """Pass on, with the task's name."""
        self._put(lambda progress: progress.advance(f"{self._name}: {phase}", done, total))

    def note(self, message: str) -> None:
        """Pass on."""
        self._put(lambda progress: progress.note(message))

    def warn(self, message: str) -> None:
        """Pass on."""
        self._put(lambda progress: progress.warn(message))

    def end(self, step: str, outcome: str) -> None:
        """Pass on."""
        self._put(lambda progress: progress.end(step, outcome))


def _outcome(index: int, task: Task[T], progress: Progress) -> Outcome[T]:
    begin = time.perf_counter()
    try:
        result = task.work(progress)
    except Exception as error:  # noqa: BLE001  the caller decides what it means
        return Outcome(index, None, error, time.perf_counter() - begin)
    return Outcome(index, result, None, time.perf_counter() - begin)
