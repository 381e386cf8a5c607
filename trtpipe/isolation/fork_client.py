"""The parent's side of the fork server: the server process, and every child of it, watched like any worker."""

from __future__ import annotations

import atexit
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from functools import cache
from typing import TYPE_CHECKING

from trtpipe.config.settings import child_environment, confined_environment
from trtpipe.isolation.exit_status import DISCONNECTED_STATUS, error_of, user_error_of
from trtpipe.isolation.linux import POLL_SECONDS
from trtpipe.isolation.messages import LINE_BYTES, ForkReply, ForkRequest, MessageStream
from trtpipe.isolation.worker import TAIL_BYTES, ChildWatch, boot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.errors import TrtpipeError
    from trtpipe.isolation.exit_status import Stop
    from trtpipe.isolation.worker import Limits
    from trtpipe.progress import Progress


#: Seconds that a server with the user's environment stays without a child: it holds a quarter of a gigabyte.
_IDLE_SECONDS = 30.0
#: What pytest changes from test to test: no reason to import everything again.
_NAME_OF_TEST = b"PYTEST_CURRENT_TEST"


class ForkServer:
    """The server process. Started when first needed, and again after it has ended.

    Args:
        environment: the process's.
        idle: seconds without a child after which it ends by itself.
    """

    def __init__(self, environment: Mapping[bytes, bytes], idle: float | None = None) -> None:
        self._environment = environment
        self._idle = idle
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._children: set[int] = set()
        atexit.register(self.close)

    def ask(self, request: ForkRequest, handles: list[int]) -> int:
        """Send a request and wait for the reply: a process id or an exit status.

        Raises:
            OSError: the server has ended, or cannot be started.
        """
        with self._lock:
            self._children.discard(request.end)  # before its number may be another's
            reply = self._reply(request, handles)
            if not reply and self._idle is not None:  # it ended by itself at this very moment
                reply = self._reply(request, handles)
            if not reply:
                raise BrokenPipeError
            number = ForkReply.model_validate_json(reply).number
            if not request.end:
                self._children.add(number)
            return number

    def kill(self, child: int) -> None:
        """Kill a child and what it started, from any thread, unless it was ended."""
        if child in self._children:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)

    def _reply(self, request: ForkRequest, handles: list[int]) -> bytes:
        """Send a request and wait for the reply; empty if the server has ended."""
        control = self._started(request.preload)
        reply = b""
        try:
            socket.send_fds(control, [request.to_line().encode()], handles)
            reply = control.recv(LINE_BYTES)
        except OSError:
            pass
        except BaseException:  # an interruption: the reply must not be taken for that of the next request
            self.close()
            raise
        if not reply:
            self.close()
        return reply

    def start(self, preload: Sequence[str]) -> None:
        """Start the server, unless it runs, without waiting for its imports.

        Raises:
            OSError: it cannot be started.
        """
        with self._lock:
            self._started(preload)

    def close(self) -> None:
        """End the server, and with it all its children and what they started."""
        if self._process is not None and self._process.poll() is None:
            for child in tuple(self._children):
                self.kill(child)
        self._children.clear()
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
                [*boot("trtpipe.isolation.fork_server"), str(theirs.fileno()), str(self._idle or ""), *preload],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=self._environment,
            )
        self._control = mine
        return mine


@cache
def server_of(process: int) -> ForkServer:
    """The fork server of this process; a fork of it gets its own. A child that runs the user's code is told the rest of
    the environment.
    """
    return ForkServer({os.fsencode(name): os.fsencode(value) for name, value in confined_environment().items()})


def user_server() -> ForkServer:
    """The server of this process whose libraries were imported in the user's environment, as it is now."""
    environment = child_environment()
    environment.pop(_NAME_OF_TEST, None)
    return _user_server_of(os.getpid(), frozenset(environment.items()))


@cache
def _user_server_of(process: int, environment: frozenset[tuple[bytes, bytes]]) -> ForkServer:
    return ForkServer(dict(environment), _IDLE_SECONDS)


#: Seconds that a child which closed its stream has to end by itself.
_LAST_SECONDS = 1.0


class Child:
    """One child of the fork server, watched like every worker.

    Args:
        function: the user's function that it runs, if it does: to blame for how it ends.
        server: what forks it (default: ``server_of`` this process).

    Attributes:
        watch: its limits, progress and output.

    Raises:
        OSError: the server cannot be started, or has ended.
    """

    def __init__(
        self,
        request: ForkRequest,
        limits: Limits,
        progress: Progress,
        function: str = "",
        server: ForkServer | None = None,
    ) -> None:
        from trtpipe.isolation.shared_arrays import SharedMemory

        self._seconds = limits.seconds
        self._function = function
        self._error: TrtpipeError | None = None
        self._server = server or server_of(os.getpid())
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
            self._ended = _handle_of_process(self._number)
            if self._ended is not None:  # a fork of the child's may hold its stream open when it has ended
                stack.callback(os.close, self._ended)
                self._selector.register(self._ended, selectors.EVENT_READ)
            self._stack = stack.pop_all()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._stack.close()

    def kill(self) -> None:
        """Kill the child, from any thread; whoever waits for it gets a WorkerError."""
        self._server.kill(self._number)

    def abandon(self) -> None:
        """Kill the child and what it started; unlike leaving it, this may be done at any moment."""
        self.kill()
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

    def offer(self, message: bytes) -> None:
        """Send the child a message; if it has ended, ``receive`` says so, behind what it sent before."""
        with suppress(OSError):
            self._messages.send(message)

    def receive(self, what: str, deadline: float | None = None) -> bytes:
        """Wait for the child's next message.

        Args:
            deadline: on the monotonic clock (default: the time limit from now).

        Raises:
            WorkerError: it ends first, or takes too long or too much memory.
        """
        if self._error is not None:
            raise self._error
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
        ready = {key.fd for key, _ in self._selector.select(seconds)} if message is None else set()
        if self._output in ready:
            self._read_output()
        if self._messages.fileno() in ready:
            return self._messages.poll()
        if self._ended in ready:
            raise EOFError
        return message

    def _read_output(self) -> None:
        data = os.read(self._output, TAIL_BYTES)
        if not data:
            self._selector.unregister(self._output)
        self.watch.add_output(data)

    def _failure(self, stopped: Stop, what: str) -> TrtpipeError:
        """End the child; the error that describes how it ended."""
        alive = not stopped and not self._ends_by_itself()
        status = self._end()
        while self._output in self._selector.get_map() and any(
            key.fd == self._output for key, _ in self._selector.select(0)
        ):
            self._read_output()
        if self._function:
            ending = self.watch.ending(DISCONNECTED_STATUS if alive else status, stopped)
            self._error = user_error_of(ending, what, self._function)
        else:
            self._error = error_of(self.watch.ending(status, stopped), what)
        return self._error

    def _ends_by_itself(self) -> bool:
        """Whether a child that closed its stream ends before long; the user's code may have closed it, and go on."""
        if self._ended is None or not self._function:
            return True
        waiting = select.poll()
        waiting.register(self._ended, select.POLLIN)
        return bool(waiting.poll(1000 * _LAST_SECONDS))

    def _end(self) -> int:
        number, self._number = self._number, 0
        with suppress(OSError):  # the server was killed, and its children with it
            return self._server.ask(ForkRequest(end=number), []) if number else 0
        return -9


def _handle_of_process(number: int) -> int | None:
    """A handle that is readable when the process has ended; ``None`` where the system has no such handles."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(number)
    except OSError:
        return None
