"""The child's side of ``apart``: a process that has imported what is slow to import, and forks a child for every wish.

It never looks at a model itself, so it lives as long as its parent; what it forks is confined before it opens anything.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, TypeAlias

from pydantic import TypeAdapter

from trtpipe.artifact import Record, TensorSpec
from trtpipe.isolation.exit_status import Outcome
from trtpipe.isolation.imports import defer_sympy, no_telemetry
from trtpipe.isolation.linux import be_the_first_to_go, die_with
from trtpipe.isolation.sandbox import confine
from trtpipe.isolation.shared_arrays import Arena, Letters, Parcel
from trtpipe.isolation.worker_main import STACK_BYTES, resolve

if TYPE_CHECKING:
    from trtpipe.artifact import Feed
    from trtpipe.backends.onnxruntime import OnnxRunner
    from trtpipe.isolation.reducer import Reduction

Act: TypeAlias = Literal["infer", "time", "open", "reducer", "reduce", "result"]

#: Handles that go with a request for a child: its conversation, its shared memory, where it prints.
HANDLES = 3
LINE_BYTES = 1 << 16


class Wish(Record):
    """What the parent asks for: a child that runs ``model`` or does ``task``, or the end of child ``end``."""

    model: str = ""
    task: str = ""
    places: str = ""
    threads: int = 0
    end: int = 0


class Answer(Record):
    """The child's process id, or the exit status of one that ended."""

    number: int


class Order(NamedTuple):
    """What an open graph is to do.

    Attributes:
        act: ``infer`` the feeds and give the outputs, or only the ``time`` it takes; ``open`` another graph instead;
            get a ``reducer``, ``reduce`` what one feed gives, and give its ``result``.
        feeds: in shared memory.
        what: the other graph's path, or the reducer's ``module:Class``.
        names: what the reducer is made from.
    """

    act: Act
    feeds: list[list[Parcel]]
    what: str = ""
    names: tuple[str, ...] = ()


class Found(NamedTuple):
    """What came of the runs: outputs in shared memory, and the seconds they took."""

    outputs: list[list[Parcel]]
    seconds: float


class Opened(Record):
    """The model's inputs and outputs as onnxruntime names them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


ORDER, FOUND = TypeAdapter(Order), TypeAdapter(Found)


def main(arguments: Sequence[str]) -> NoReturn:
    """Serve wishes from the socket whose handle ``arguments`` name, until the parent ends."""
    no_telemetry()
    defer_sympy()
    gc.disable()  # all this stays
    import ml_dtypes  # noqa: F401 - all that a child would import
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401

    import trtpipe.backends.onnxruntime
    import trtpipe.preflight.onnx_io  # noqa: F401

    control = socket.socket(fileno=int(arguments[0]))
    if not _has_wish(control):  # woken before there is one: time for what only tasks need
        _import_for_tasks()
    gc.freeze()
    gc.enable()
    children: set[int] = set()
    while True:
        line, handles, _, _ = socket.recv_fds(control, LINE_BYTES, HANDLES)
        if not line:
            break
        wish = Wish.model_validate_json(line)
        if wish.task:
            _import_for_tasks()
        number = _end(wish.end, children) if wish.end else _bear(wish, handles, control, children)
        control.sendall(Answer(number=number).model_dump_json().encode())
    for child in tuple(children):
        _end(child, children)
    os._exit(0)


def _has_wish(control: socket.socket) -> bool:
    """Whether one waits. ``select`` would not do: a parent with a thousand files open hands down higher handles."""
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    return bool(waiting.poll(0))


def _import_for_tasks() -> None:
    """What tasks work on graphs with: half a second that not every child need spend."""
    import onnx_ir.passes.common  # noqa: F401


def _bear(wish: Wish, handles: list[int], control: socket.socket, children: set[int]) -> int:
    """Fork a child for one graph."""
    nursery = os.getpid()
    child = os.fork()
    if child:
        children.add(child)
        for handle in handles:
            os.close(handle)
        return child
    try:
        control.close()
        os.setsid()
        die_with(nursery)
        be_the_first_to_go()
        _live(wish, handles)
    except BaseException:  # noqa: BLE001 - a copy of the nursery must never go on as one
        traceback.print_exc()
    finally:
        os._exit(1)


def _end(child: int, children: set[int]) -> int:
    """Kill a child, if it is still there; its exit status, negative for a signal."""
    if child not in children:
        return -signal.SIGKILL
    children.discard(child)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    with suppress(ProcessLookupError):  # it may not have made its group yet
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _live(wish: Wish, handles: list[int]) -> None:
    """What a child does: open the graph, say what it is, run it on what comes."""
    stream, memory, words = handles
    os.dup2(words, 1)
    os.dup2(words, 2)
    if wish.places:
        confine(**json.loads(wish.places))
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=_serve, args=(wish, Letters(socket.socket(fileno=stream)), Arena(memory)))
    thread.start()
    thread.join()


def _serve(wish: Wish, letters: Letters, arena: Arena) -> None:
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has heard enough
        try:
            if wish.task:
                letters.send(_done(_perform(wish.task, letters.wait())))
            else:
                _run_all(wish, letters, arena)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent gets it with its traceback
            letters.send(_told(error))
    os._exit(0)  # no clean-up: native libraries crash in theirs


def _perform(task: str, text: bytes) -> Record:
    function, request = resolve(task)
    return function(request.model_validate_json(text), lambda phase, done, total: None)


def _run_all(wish: Wish, letters: Letters, arena: Arena) -> NoReturn:
    """Run one graph after another until the parent has heard enough, which ends in an EOFError."""
    model = wish.model
    while True:
        model = _run_graph(Path(model), wish.threads, letters, arena)


def _run_graph(model: Path, threads: int, letters: Letters, arena: Arena) -> str:
    """Run the graph until the parent asks for another one: which."""
    from trtpipe.backends.onnxruntime import opened_here

    with opened_here(model, threads) as runner:
        letters.send(_done(Opened(inputs=runner.inputs, outputs=runner.outputs)))
        desk = _Desk(runner, arena)
        while (order := ORDER.validate_json(letters.wait())).act != "open":
            letters.send(desk.answer(order))
    return order.what


def _done(reply: Record) -> bytes:
    return Outcome(kind="done", reply=reply.to_dict()).model_dump_json().encode()


class _Desk:
    """Does what is ordered of one open graph."""

    def __init__(self, runner: OnnxRunner, arena: Arena) -> None:
        self._runner = runner
        self._arena = arena
        self._reduction: Reduction | None = None

    def answer(self, order: Order) -> bytes:
        """What came of it, or why nothing did."""
        try:
            feeds = [self._arena.unpack(feed, copy=False) for feed in order.feeds]
            begin = time.perf_counter()
            outputs = self._do(order, feeds)
            seconds = time.perf_counter() - begin
            return FOUND.dump_json(Found([] if order.act == "time" else self._arena.pack(outputs), seconds))
        except Exception as error:  # noqa: BLE001
            return _told(error)

    def _do(self, order: Order, feeds: list[Feed]) -> list[Feed]:
        if order.act == "reducer":
            self._reduction = self._runner.reduced(order.what, order.names)
            return []
        if order.act in ("reduce", "result"):
            assert self._reduction is not None
            return [self._reduction.run(feed) for feed in feeds] or [self._reduction.result()]
        run = self._runner.peek if len(feeds) == 1 else self._runner.infer
        return [run(feed) for feed in feeds]


def _told(error: Exception) -> bytes:
    return Outcome.of_error(error, "shared memory").model_dump_json().encode()
