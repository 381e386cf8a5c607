"""A pool of processes for work in native code, in which an item that crashes or hangs costs just itself."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

#: items a worker handles before a fresh one takes its place, so that what native libraries leak stays small
_LIFETIME = 300


@dataclass(frozen=True)
class Job(Generic[Item, Result]):
    """What is done.

    Attributes:
        items: handled each once, in no order that is promised.
        work: runs in a worker; what it returns is pickled.
        lost: the result of an item that ended its worker: ``crash`` or ``hang``, and the reason.
        limit: seconds one item may take; the slowest node test takes about ten.
    """

    items: Sequence[Item]
    work: Callable[[Item], Result]
    lost: Callable[[Item, str, str], Result]
    limit: float = 120.0


@dataclass
class _Worker:
    """A process of the pool, and the number of the item it is at."""

    process: ForkProcess
    connection: Connection
    at: int | None = None
    since: float = 0.0
    runs: int = 0


def sweep(job: Job[Item, Result], workers: int) -> Iterator[Result]:
    """The results, as they become known.

    Workers are forked before this process has loaded any native library, and share the items with it.
    """
    queue = list(range(len(job.items)))[::-1]
    pool = [_start(job) for _ in range(min(workers, len(queue)))]
    try:
        while queue or any(worker.at is not None for worker in pool):
            pool = [_given_work(worker, queue, job) for worker in pool]
            wait([worker.connection for worker in pool if worker.at is not None], timeout=1.0)
            for place, worker in enumerate(pool):
                if worker.at is None or (ended := _ended(worker, job)) is None:
                    continue
                result, alive = ended
                worker.at = None
                if not alive:
                    pool[place] = _replaced(worker, job)
                yield result
    finally:
        for worker in pool:
            _stop(worker)


def _given_work(worker: _Worker, queue: list[int], job: Job[Item, Result]) -> _Worker:
    if worker.at is not None or not queue:
        return worker
    if worker.runs >= _LIFETIME:
        worker = _replaced(worker, job)
    worker.at, worker.since, worker.runs = queue.pop(), time.monotonic(), worker.runs + 1
    worker.connection.send(worker.at)
    return worker


def _ended(worker: _Worker, job: Job[Item, Result]) -> tuple[Result, bool] | None:
    """What a busy worker found, and whether it lives on; ``None`` while it is at work."""
    assert worker.at is not None
    item = job.items[worker.at]
    try:
        if worker.connection.poll():
            return worker.connection.recv(), True
    except EOFError:
        worker.process.join(5)
        return job.lost(item, "crash", f"the worker ended with status {worker.process.exitcode}"), False
    if time.monotonic() - worker.since > job.limit:
        return job.lost(item, "hang", f"no answer in {job.limit:.0f} s"), False
    return None


def _start(job: Job[Item, Result]) -> _Worker:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, ours, job), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _replaced(worker: _Worker, job: Job[Item, Result]) -> _Worker:
    _stop(worker)
    return _start(job)


def _stop(worker: _Worker) -> None:
    worker.connection.close()
    worker.process.kill()
    worker.process.join()


def _work(connection: Connection, other: Connection, job: Job[Item, Result]) -> None:
    """A worker's life: the number of an item comes in, its result goes out."""
    other.close()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:  # native libraries print what they also report
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    while True:
        try:
            index = connection.recv()
        except EOFError:
            os._exit(0)  # native libraries crash in their clean-up
        connection.send(job.work(job.items[index]))
