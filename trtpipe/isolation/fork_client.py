"""The parent's side of the fork server: the server process, and every child of it, watched like any worker."""

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
from typing import TYPE_CHECKING

from trtpipe.config.settings import confined_environment
from trtpipe.isolation.exit_status import error_of
from trtpipe.isolation.linux import POLL_SECONDS
from trtpipe.isolation.messages import LINE_BYTES, ForkReply, ForkRequest, MessageStream
from trtpipe.isolation.worker import TAIL_BYTES, ChildWatch, boot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.errors import TrtpipeError
    from trtpipe.isolation.exit_status import Stop
    from trtpipe.isolation.worker import Limits
    from trtpipe.progress import Progress


class ForkServer:
    """The server process. Started when first needed, and again after it was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        atexit.register(self.close)

    def ask(self, request: ForkRequest, handles: list[int]) -> int:
        """Send a request and wait for the reply: a process id or an exit status.

        Raises:
            OSError: the server has ended, or cannot be started.
        """
        with self._lock:
            control = self._started(request.preload)
            try:
                socket.send_fds(control, [request.model_dump_json().encode()], handles)
                reply = control.recv(LINE_BYTES)
            except OSError:
                reply = b""
            except BaseException:  # an interruption: the reply must not be taken for that of the next request
                self.close()
                raise
            if not reply:
                self.close()
                raise BrokenPipeError
            return ForkReply.model_validate_json(reply).number

    def start(self, preload: Sequence[str]) -> None:
        """Start the server, unless it runs, without waiting for its imports.

        Raises:
            OSError: it cannot be started.
        """
        with self._lock:
            self._started(preload)

    def close(self) -> None:
        """End the server, and with it all its children."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None

    def _started(self, preload: Sequence[str]) -> socket.socket:
        if self._control is not None and self._process is not None and self._process.poll() is None:
            return self._control
        self.close()
        mine, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*boot("trtpipe.isolation.fork_server"), str(theirs.fileno()), *preload],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=confined_environment(),  # a child that runs the user's code is told the rest
            )
        self._control = mine
        return mine


@cache
def server_of(process: int) -> ForkServer:
    """The fork server of this process; a fork of it gets its own."""
    return ForkServer()


class Child:
    """One child of the fork server, watched like every worker.

    Attributes:
        watch: its limits, progress and output.

    Raises:
        OSError: the server cannot be started, or has ended.
    """

    def __init__(self, request: ForkRequest, limits: Limits, progress: Progress) -> None:
        from trtpipe.isolation.shared_arrays import SharedMemory

        self._seconds = limits.seconds
        self._error: TrtpipeError | None = None
        self._server = server_of(os.getpid())
        with ExitStack() as stack:
            self.memory = SharedMemory.new()
            stack.callback(self.memory.close)
            stream, theirs = socket.socketpair()
            stack.enter_context(stream)
            self._output, printed = os.pipe()
            stack.callback(os.close, self._output)
            with theirs:
                try:
                    self._number = self._server.ask(request, [theirs.fileno(), self.memory.fileno(), printed])
                finally:
                    os.close(printed)
            self.watch = ChildWatch(self._number, limits, progress)
            self._messages = MessageStream(stream)
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._selector.register(stream, selectors.EVENT_READ)
            self._selector.register(self._output, selectors.EVENT_READ)
            self._stack = stack.pop_all()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._stack.close()

    def send(self, message: bytes, what: str) -> None:
        """Send the child a message.

        Raises:
            WorkerError: it has ended.
        """
        if self._error is not None:
            raise self._error
        try:
            self._messages.send(message)
        except OSError:
            raise self._failure("", what) from None

    def receive(self, what: str, deadline: float | None = None) -> bytes:
        """Wait for the child's next message.

        Args:
            deadline: on the monotonic clock (default: the time limit from now).

        Raises:
            WorkerError: it ends first, or takes too long or too much memory.
        """
        end = time.monotonic() + self._seconds if deadline is None else deadline
        while True:
            try:
                if (message := self._poll(POLL_SECONDS)) is not None:
                    return message
            except (EOFError, OSError):
                raise self._failure("", what) from None
            if stopped := self.watch.exceeded(end):
                raise self._failure(stopped, what)

    def _poll(self, seconds: float) -> bytes | None:
        message = self._messages.received()
        for key, _ in self._selector.select(seconds) if message is None else ():
            if key.fd == self._output:
                self._read_output()
            else:
                message = self._messages.poll()
        return message

    def _read_output(self) -> None:
        data = os.read(self._output, TAIL_BYTES)
        if not data:
            self._selector.unregister(self._output)
        self.watch.add_output(data)

    def _failure(self, stopped: Stop, what: str) -> TrtpipeError:
        """End the child; the error that describes how it ended."""
        status = self._end()
        while self._output in self._selector.get_map() and any(
            key.fd == self._output for key, _ in self._selector.select(0)
        ):
            self._read_output()
        self._error = error_of(self.watch.ending(status, stopped), what)
        return self._error

    def _end(self) -> int:
        number, self._number = self._number, 0
        with suppress(OSError):  # the server was killed, and its children with it
            return self._server.ask(ForkRequest(end=number), []) if number else 0
        return -9
