"""The server's side of ``remote_runner``: a process that imports slow libraries once and forks a child per request.

The server never opens a model itself, so it lives as long as its parent; a child is confined before it opens one.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from trtpipe.isolation.exit_status import Outcome
from trtpipe.isolation.imports import load_name, no_telemetry
from trtpipe.isolation.linux import end_with_parent, prefer_as_oom_victim, run_with_stack
from trtpipe.isolation.messages import (
    HANDLES,
    LINE_BYTES,
    MODEL_REPLY,
    MODEL_REQUEST,
    ForkReply,
    ForkRequest,
    Interface,
    MessageStream,
    ModelReply,
    ModelRequest,
)
from trtpipe.isolation.sandbox import confine
from trtpipe.isolation.shared_arrays import SharedMemory
from trtpipe.isolation.worker_main import Reporter, resolve, use_scratch

if TYPE_CHECKING:
    from trtpipe.artifact import Feed, Record
    from trtpipe.isolation.reducer import Reduction
    from trtpipe.isolation.remote_runner import ModelOpener, OpenModel

_CLOSED = (EOFError, BrokenPipeError, ConnectionResetError)


def main(arguments: Sequence[str]) -> NoReturn:
    """Serve requests until the parent ends.

    Args:
        arguments: the handle of the socket, seconds without a child after which to end (empty: none), and modules to
            import while no request waits.
    """
    no_telemetry()
    handle, idle, *modules = arguments
    control = socket.socket(fileno=int(handle))
    children: set[int] = set()
    while True:
        while modules and not _has_request(control):
            _preload([modules.pop(0)])
        if idle and not children and not _has_request(control, float(idle)):
            break
        line, handles, _, _ = socket.recv_fds(control, LINE_BYTES, HANDLES)
        if not line:
            break
        request = ForkRequest.model_validate_json(line)
        _preload(request.preload)
        number = _end(request.end, children) if request.end else _fork(request, handles, control, children)
        control.sendall(ForkReply(number=number).model_dump_json().encode())
    for child in tuple(children):
        _end(child, children)
    os._exit(0)


def _has_request(control: socket.socket, seconds: float = 0.0) -> bool:
    """Whether a request comes in so many seconds.

    Not by ``select``: the handle is above 1024 if the parent has many open files.
    """
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    return bool(waiting.poll(1000 * seconds))


def _preload(modules: Sequence[str]) -> None:
    """Import modules, which stay for good: the garbage collector need not look at them, in children either."""
    missing = [module for module in modules if module not in sys.modules]
    if missing:
        gc.disable()
        for module in missing:
            with suppress(Exception):  # however it failed, the child that needs it says so
                importlib.import_module(module)
        gc.freeze()
        gc.enable()


def _fork(request: ForkRequest, handles: list[int], control: socket.socket, children: set[int]) -> int:
    """Fork a child for one request."""
    server = os.getpid()
    child = os.fork()
    if child:
        children.add(child)
        for handle in handles:
            os.close(handle)
        return child
    try:
        control.close()
        os.setsid()
        end_with_parent(server)
        prefer_as_oom_victim()
        _run_child(request, handles)
    except BaseException:  # noqa: BLE001 - the child must never continue as a second server
        traceback.print_exc()
    finally:
        os._exit(1)


def _end(child: int, children: set[int]) -> int:
    """Kill a child if it still runs; its exit status, negative for a signal."""
    if child not in children:
        return -signal.SIGKILL
    children.discard(child)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    with suppress(ProcessLookupError):  # it may not have created its group yet
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run_child(request: ForkRequest, handles: list[int]) -> None:
    stream, memory, output = handles
    os.dup2(output, 1)
    os.dup2(output, 2)
    if request.confinement:
        confine(**json.loads(request.confinement))
    messages = MessageStream(socket.socket(fileno=stream))
    shared = SharedMemory(memory)
    if request.session:
        with suppress(*_CLOSED):
            load_name(request.session)(messages, shared)
        os._exit(0)
    run_with_stack(lambda: _serve(request, messages, shared))


def _serve(request: ForkRequest, messages: MessageStream, memory: SharedMemory) -> None:
    with suppress(*_CLOSED):  # the parent needs no more replies
        try:
            if request.task:
                if request.scratch:
                    use_scratch(request.scratch)
                function, argument = resolve(request.task)
                given = argument.model_validate_json(messages.receive())
                messages.send(_done(function(given, Reporter(messages.send))))
            else:
                _serve_models(request, messages, memory)
        except _CLOSED:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent gets it with its traceback
            messages.send(_failed(error, request.scratch or "shared memory"))
    os._exit(0)  # no clean-up: native libraries crash during theirs


def _serve_models(request: ForkRequest, messages: MessageStream, memory: SharedMemory) -> NoReturn:
    """Open one model after another until the parent closes the stream, which ends in an EOFError."""
    opener: ModelOpener = load_name(request.opener)
    path, few = request.model, request.few
    while True:
        with opener(Path(path), request.threads, few) as runner:
            found = Interface(device=runner.device, inputs=runner.inputs, outputs=runner.outputs)
            messages.send(_done(found))
            session = _Session(runner, memory)
            while (received := MODEL_REQUEST.validate_json(messages.receive())).action != "open":
                messages.send(session.reply(received))
        path, few = received.name, received.few


def _done(reply: Record) -> bytes:
    return Outcome(kind="done", reply=reply.to_dict()).model_dump_json().encode()


def _failed(error: Exception, place: str) -> bytes:
    """The reply to what was raised; ``place`` is what is full where the error names no file."""
    return Outcome.of_error(error, place).model_dump_json().encode()


class _Session:
    """Handles the requests to one open model."""

    def __init__(self, runner: OpenModel, memory: SharedMemory) -> None:
        self._runner = runner
        self._memory = memory
        self._reduction: Reduction | None = None

    def reply(self, request: ModelRequest) -> bytes:
        """The reply to a request, or the error it raised."""
        try:
            feeds = [self._memory.unpack(feed, copy=False) for feed in request.feeds]
            begin = time.perf_counter()
            outputs = self._run(request, feeds)
            seconds = time.perf_counter() - begin
            kept = [] if request.action == "time" else self._memory.pack(outputs)
            return MODEL_REPLY.dump_json(ModelReply(kept, seconds))
        except Exception as error:  # noqa: BLE001
            return _failed(error, "shared memory")

    def _run(self, request: ModelRequest, feeds: list[Feed]) -> list[Feed]:
        if request.action == "reducer":
            self._reduction = self._runner.reduced(request.name, request.tensors)
            return []
        if request.action in ("reduce", "result"):
            assert self._reduction is not None
            return [self._reduction.run(feed) for feed in feeds] or [self._reduction.result()]
        run = self._runner.peek if len(feeds) == 1 else self._runner.infer
        return [run(feed) for feed in feeds]
