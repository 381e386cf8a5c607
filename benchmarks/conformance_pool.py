"""A pool of processes for node tests, in which a test that crashes or hangs costs just itself."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path

from conformance_cases import Case
from conformance_run import Outcome, run_case

#: seconds one test may take at all its precisions; the slowest takes about ten
_LIMIT = 120.0
#: tests a worker runs before a fresh one takes its place, so that what native libraries leak stays small
_LIFETIME = 300


@dataclass
class _Worker:
    """A process of the pool, and the test it is at."""

    process: ForkProcess
    connection: Connection
    case: Case | None = None
    since: float = 0.0
    runs: int = 0


def sweep(cases: Sequence[Case], precisions: Sequence[str], workers: int) -> Iterator[list[Outcome]]:
    """The outcomes of every test at all precisions, as they become known.

    Workers are forked before this process has loaded any native library, and share the generated tests with it.
    """
    queue = list(range(len(cases)))[::-1]
    pool = [_start(cases, precisions) for _ in range(min(workers, len(queue)))]
    try:
        while queue or any(worker.case for worker in pool):
            pool = [_given_work(worker, queue, cases, precisions) for worker in pool]
            wait([worker.connection for worker in pool if worker.case], timeout=1.0)
            for place, worker in enumerate(pool):
                if worker.case is None or (ended := _ended(worker, precisions)) is None:
                    continue
                outcomes, alive = ended
                worker.case = None
                if not alive:
                    pool[place] = _replaced(worker, cases, precisions)
                yield outcomes
    finally:
        for worker in pool:
            _stop(worker)


def _given_work(worker: _Worker, queue: list[int], cases: Sequence[Case], precisions: Sequence[str]) -> _Worker:
    if worker.case or not queue:
        return worker
    if worker.runs >= _LIFETIME:
        worker = _replaced(worker, cases, precisions)
    index = queue.pop()
    worker.case, worker.since, worker.runs = cases[index], time.monotonic(), worker.runs + 1
    worker.connection.send(index)
    return worker


def _ended(worker: _Worker, precisions: Sequence[str]) -> tuple[list[Outcome], bool] | None:
    """What a busy worker found, and whether it lives on; ``None`` while it is at work."""
    case = worker.case
    assert case is not None
    try:
        if worker.connection.poll():
            return worker.connection.recv(), True
    except EOFError:
        worker.process.join(5)
        return _all(case, precisions, "crash", f"the worker ended with status {worker.process.exitcode}"), False
    if time.monotonic() - worker.since > _LIMIT:
        return _all(case, precisions, "hang", f"no answer in {_LIMIT:.0f} s"), False
    return None


def _all(case: Case, precisions: Sequence[str], outcome: str, reason: str) -> list[Outcome]:
    return [Outcome(case.name, precision, outcome, operators=case.operators, reason=reason) for precision in precisions]


def _start(cases: Sequence[Case], precisions: Sequence[str]) -> _Worker:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, ours, cases, precisions), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _replaced(worker: _Worker, cases: Sequence[Case], precisions: Sequence[str]) -> _Worker:
    _stop(worker)
    return _start(cases, precisions)


def _stop(worker: _Worker) -> None:
    worker.connection.close()
    worker.process.kill()
    worker.process.join()


def _work(connection: Connection, other: Connection, cases: Sequence[Case], precisions: Sequence[str]) -> None:
    """A worker's life: the number of a test comes in, its outcomes go out."""
    other.close()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:  # native libraries print what they also report
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    while True:
        try:
            index = connection.recv()
        except EOFError:
            os._exit(0)  # native libraries crash in their clean-up
        connection.send(run_case(cases[index], precisions))
