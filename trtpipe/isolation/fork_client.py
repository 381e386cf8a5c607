"""The parent's side of the nursery: the process that forks, and every child of it, watched like any worker."""

from __future__ import annotations

import atexit
import os
import selectors
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from functools import cache
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from trtpipe.isolation.exit_status import Ending, death
from trtpipe.isolation.linux import POLL_SECONDS, MemoryWatch
from trtpipe.isolation.worker import TAIL_BYTES, boot

if TYPE_CHECKING:
    from trtpipe.errors import TrtpipeError
    from trtpipe.isolation.fork_server import Wish
    from trtpipe.isolation.worker import Limits


class Nursery:
    """The process that forks. Started when first needed, and again should somebody kill it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        atexit.register(self.close)

    def ask(self, wish: Wish, handles: list[int]) -> int:
        """One wish and its answer.

        Raises:
            OSError: the nursery has ended, or cannot be started.
        """
        from trtpipe.isolation.fork_server import LINE_BYTES, Answer

        with self._lock:
            control = self._awake()
            try:
                socket.send_fds(control, [wish.model_dump_json().encode()], handles)
                answer = control.recv(LINE_BYTES)
            except OSError:
                answer = b""
            except BaseException:  # an interruption: its answer must not be taken for the next one's
                self.close()
                raise
            if not answer:
                self.close()
                raise BrokenPipeError
            return Answer.model_validate_json(answer).number

    def wake(self) -> None:
        """Start it, if it is not awake, without waiting for what it imports.

        Raises:
            OSError: it cannot be started.
        """
        with self._lock:
            self._awake()

    def close(self) -> None:
        """End it, and with it all it forked."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None

    def _awake(self) -> socket.socket:
        if self._control is not None and self._process is not None and self._process.poll() is None:
            return self._control
        self.close()
        mine, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*boot("trtpipe.isolation.fork_server"), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._control = mine
        return mine


@cache
def nursery(process: int) -> Nursery:
    """The one of this process; a fork of it gets its own."""
    return Nursery()


class Child:
    """One child with its graph, watched like every worker: each answer has the time limit for itself."""

    def __init__(self, wish: Wish, limits: Limits) -> None:
        from trtpipe.isolation.shared_arrays import Arena, Letters

        self._limits = limits
        self._tail = bytearray()
        self._died: TrtpipeError | None = None
        self._home = nursery(os.getpid())
        with ExitStack() as stack:
            self.arena = Arena.new()
            stack.callback(self.arena.close)
            self._stream, theirs = socket.socketpair()
            stack.enter_context(self._stream)
            self._words, printed = os.pipe()
            stack.callback(os.close, self._words)
            with theirs:
                try:
                    self._number = self._home.ask(wish, [theirs.fileno(), self.arena.fileno(), printed])
                finally:
                    os.close(printed)
            self._memory = MemoryWatch(self._number, limits.memory)
            self._letters = Letters(self._stream)
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._selector.register(self._stream, selectors.EVENT_READ)
            self._selector.register(self._words, selectors.EVENT_READ)
            self._stack = stack.pop_all()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._stack.close()

    def tell(self, letter: bytes, what: str) -> None:
        """Send the child something.

        Raises:
            WorkerError: it is no more.
        """
        if self._died is not None:
            raise self._died
        try:
            self._letters.send(letter)
        except OSError:
            raise self._death("", what) from None

    def hear(self, what: str) -> bytes:
        """What the child answers.

        Raises:
            WorkerError: it ends first, or takes too long or too much memory.
        """
        deadline = time.monotonic() + self._limits.seconds
        while True:
            try:
                if (letter := self._listen(POLL_SECONDS)) is not None:
                    return letter
            except (EOFError, OSError, ValidationError):
                raise self._death("", what) from None
            if time.monotonic() > deadline:
                raise self._death("time", what)
            if self._memory.exceeded():
                raise self._death("memory", what)

    def _listen(self, seconds: float) -> bytes | None:
        letter = None
        for key, _ in self._selector.select(seconds):
            if key.fd == self._words:
                self._take_words()
            else:
                letter = self._letters.take()
        return letter

    def _take_words(self) -> None:
        data = os.read(self._words, TAIL_BYTES)
        if not data:
            self._selector.unregister(self._words)
        self._tail += data
        del self._tail[:-TAIL_BYTES]

    def _death(self, stopped: Literal["", "time", "memory"], what: str) -> TrtpipeError:
        """What the child's end is called."""
        status = self._end()
        while self._words in self._selector.get_map() and any(
            key.fd == self._words for key, _ in self._selector.select(0)
        ):
            self._take_words()
        limit = self._limits.memory if stopped == "memory" else self._limits.seconds
        words = bytes(self._tail).decode("utf-8", errors="replace")
        self._died = death(Ending(status=status, stopped=stopped, limit=limit, phase="", words=words), what)
        return self._died

    def _end(self) -> int:
        from trtpipe.isolation.fork_server import Wish

        number, self._number = self._number, 0
        with suppress(OSError):  # the nursery was killed, and took the child along
            return self._home.ask(Wish(end=number), []) if number else 0
        return -9
