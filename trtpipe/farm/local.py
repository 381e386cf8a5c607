"""Workers on this machine: processes, each with one task at a time."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from trtpipe.config.toolchain import cores
from trtpipe.farm.tasks import own_offer
from trtpipe.farm.workers import Ended, Workers
from trtpipe.isolation.worker import boot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.config.settings import Settings
    from trtpipe.farm.tasks import Offer, Task

#: Stages use several threads, and several processes besides.
_CORES_A_WORKER, _MOST = 2, 8
_SECONDS_TO_END = 5.0


class _Process:
    """One worker."""

    def __init__(self) -> None:
        self.task: int | None = None
        self._read = b""
        self._process = subprocess.Popen(
            [*boot("trtpipe.farm.worker"), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C is for the driver, who ends its workers
        )
        assert self._process.stdout is not None
        self.stream = self._process.stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, task: Task) -> None:
        """Give it a task; that it is dead shows when it is waited for."""
        self.task = task.number
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(task.request.to_line().encode() + b"\n")
            self._process.stdin.flush()

    def read(self) -> Ended | None:
        """What it says, once that is complete."""
        chunk = os.read(self.stream.fileno(), 1 << 20)
        number = self.task
        if not chunk:
            self.end(signal.SIGKILL)
            return None if number is None else Ended(number, None, f"its worker {_ending(self._process.wait())}")
        self._read += chunk
        line, newline, rest = self._read.partition(b"\n")
        if not newline or number is None:
            return None
        self._read, self.task = rest, None
        return Ended(number, line.decode("utf-8", "replace"))

    @property
    def dead(self) -> bool:
        return self._process.poll() is not None

    def end(self, how: signal.Signals) -> None:
        """Have it end; its children go with it."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(how)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS_TO_END)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self.stream.close()


class LocalWorkers(Workers):
    """Processes of this machine, started when there is work for them."""

    def __init__(self, settings: Settings) -> None:
        self._offer = own_offer(settings)
        self._most = settings.jobs or max(1, min(cores() // _CORES_A_WORKER, _MOST))
        self._idle: deque[_Process] = deque()
        self._busy: dict[int, _Process] = {}  # by file descriptor
        self._selector = selectors.DefaultSelector()

    @property
    def processes(self) -> tuple[int, ...]:
        """Process ids of the workers."""
        return tuple(each.pid for each in (*self._idle, *self._busy.values()))

    def offers(self) -> tuple[Offer, ...]:
        return (self._offer,)

    def room(self) -> int:
        return self._most - len(self._busy)

    def submit(self, task: Task) -> None:
        worker = self._idle.popleft() if self._idle else _Process()
        worker.send(task)
        self._busy[worker.stream.fileno()] = worker
        self._selector.register(worker.stream, selectors.EVENT_READ)

    def wait(self) -> Sequence[Ended]:
        ended: list[Ended] = []
        while self._busy and not ended:
            for key, _ in self._selector.select():
                worker = self._busy[key.fd]
                found = worker.read()
                if found is None:
                    continue
                self._selector.unregister(key.fileobj)
                del self._busy[key.fd]
                ended.append(found)
                if found.reply is not None:
                    self._idle.append(worker)
        return ended

    def close(self) -> None:
        for worker in self._busy.values():
            worker.end(signal.SIGINT)
        for worker in self._idle:
            worker.end(signal.SIGKILL)
        self._busy.clear()
        self._idle.clear()
        self._selector.close()


def _ending(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
