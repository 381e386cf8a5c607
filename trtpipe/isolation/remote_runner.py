"""Models that run in child processes: one that crashes, hangs or runs out of memory ends as a typed error.

A child is confined to one model, or to one folder whose models it opens in turn. Children are forked from a server that
has imported the runtime once: half a second that not every model need wait for. Arrays lie in shared memory. Tasks on
graphs run in such children too. How a model is opened is the caller's: a function given by name (``Opener``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from trtpipe.config.os_errors import address_space_limit
from trtpipe.config.units import format_bytes
from trtpipe.errors import HostError
from trtpipe.isolation.exit_status import Outcome, raise_from
from trtpipe.isolation.fork_client import Child, server_of
from trtpipe.isolation.messages import MODEL_REPLY, MODEL_REQUEST, ForkRequest, Interface, ModelRequest
from trtpipe.isolation.reducer import Runner
from trtpipe.isolation.worker import LIGHT, call, confinement_of, limits_for, scratch_in
from trtpipe.preflight import folder_size
from trtpipe.progress import NullProgress

if TYPE_CHECKING:
    from trtpipe.artifact import Feed, R, Record
    from trtpipe.config.settings import Settings
    from trtpipe.isolation.messages import Action, ModelReply
    from trtpipe.isolation.reducer import Reduction
    from trtpipe.isolation.worker import Limits
    from trtpipe.progress import Progress

#: What tasks on graphs import: half a second that not every child need spend.
_TASK_MODULES = ("onnx", "trtpipe.preflight.onnx_io", "onnx_ir.passes.common")


class OpenModel(Runner, Protocol):
    """A model that is open in this process."""

    def peek(self, feed: Feed) -> Feed:
        """Run once; the arrays are valid until the next run."""

    def reduced(self, reducer: str, names: Sequence[str]) -> Reduction:
        """Runs whose outputs go to a reducer."""


#: Opens the model at a path with so many threads (0: the runtime's default), to run it a few times only or often.
ModelOpener: TypeAlias = Callable[[Path, int, bool], AbstractContextManager[OpenModel]]


@dataclass(frozen=True)
class Opener:
    """How children open models.

    Attributes:
        function: ``package.module:function`` of a ``ModelOpener``.
        preload: modules that the fork server imports before it forks the first child.
    """

    function: str
    preload: tuple[str, ...] = ()


class RemoteRunner:
    """A model that is open in another process.

    Args:
        child: the process, which has been asked to open the model.
        name: the model's name in messages.
    """

    #: Not an engine on a GPU.
    gpu: None = None

    def __init__(self, child: Child, name: str) -> None:
        self._child = child
        self._name = name
        found = Interface.model_validate(reply_of(child.receive(f"opening {name}"), f"opening {name}"))
        self.device, self.inputs, self.outputs = found.device, found.inputs, found.outputs

    def infer(self, feed: Feed) -> Feed:
        """Run once.

        Raises:
            InputError: the runtime rejects the feed, or fails on it.
            WorkerError: the child crashed, or took too long or too much memory.
        """
        return self.infer_all([feed])[0]

    def infer_all(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Run once for each feed, all with one message; raises what ``infer`` raises."""
        return self.copies(self.ask("infer", feeds))

    def reduced(self, reducer: str, names: Sequence[str]) -> Reduction:
        """Runs whose outputs go to a reducer in the child."""
        return _RemoteReduction(self, reducer, tuple(names))

    def time(self, feed: Feed) -> float:
        """Seconds of one run, measured in the child; raises what ``infer`` raises."""
        return self.ask("time", [feed]).seconds

    def copies(self, reply: ModelReply) -> list[Feed]:
        """Copies of the arrays in shared memory."""
        return [self._child.memory.unpack(each, copy=True) for each in reply.outputs]

    def ask(
        self, action: Action, feeds: Sequence[Feed] = (), name: str = "", tensors: tuple[str, ...] = ()
    ) -> ModelReply:
        """Send a request and wait for the reply; raises what ``infer`` raises."""
        running = f"running {self._name}"
        request = ModelRequest(action, self._child.memory.pack(feeds), name, tensors)
        self._child.send(MODEL_REQUEST.dump_json(request), running)
        message = self._child.receive(running)
        if message.startswith(b"["):
            return MODEL_REPLY.validate_json(message)
        return MODEL_REPLY.validate_python(reply_of(message, running))


class RemoteTurn(Protocol):
    """Opens models in one child, each in place of the one before; see ``backends.base.Turn``."""

    def __call__(self, model: Path, *, few: bool = False) -> RemoteRunner: ...


class _RemoteReduction:
    """A reduction in the child; its methods raise what ``RemoteRunner.infer`` and the reducer raise."""

    def __init__(self, runner: RemoteRunner, reducer: str, names: tuple[str, ...]) -> None:
        self._runner = runner
        runner.ask("reducer", name=reducer, tensors=names)

    def run(self, feed: Feed) -> Feed:
        return self._runner.copies(self._runner.ask("reduce", [feed]))[0]

    def result(self) -> Feed:
        return self._runner.copies(self._runner.ask("result"))[0]


def reply_of(message: bytes, what: str) -> dict[str, object]:
    """The reply in an ``Outcome``; raises the error that it holds instead."""
    outcome = Outcome.model_validate_json(message)
    if outcome.kind != "done":
        raise_from(outcome, what)
    return outcome.reply


def prestart(opener: Opener, settings: Settings) -> None:
    """Start the fork server now, beside other work, because models will be opened before long."""
    if settings.isolate:
        with suppress(OSError):  # reported when a child is needed
            server_of(os.getpid()).start((*_TASK_MODULES, *opener.preload))


@contextmanager
def open_remote(opener: Opener, model: Path, settings: Settings) -> Iterator[RemoteRunner]:
    """Open a model in a child that may read its folder, and nothing else.

    Raises:
        StageError: the runtime cannot load the model; the message carries its reason.
        WorkerError: the child crashes, or takes too long or too much memory.
        HostError: no child can be started.
    """
    with open_remote_in_turn(opener, settings) as turn:
        yield turn(model)


@contextmanager
def open_remote_in_turn(opener: Opener, settings: Settings) -> Iterator[RemoteTurn]:
    """Yield a function that opens models of one folder in one child, each in place of the one before; it raises what
    ``open_remote`` raises.
    """
    children: list[Child] = []
    with ExitStack() as stack:

        def turn(model: Path, *, few: bool = False) -> RemoteRunner:
            folder, what = model.parent.absolute(), f"running {model.name}"
            path = str(folder / model.name)
            if children:
                children[0].send(MODEL_REQUEST.dump_json(ModelRequest("open", [], path, few=few)), what)
            else:
                with starting(what):
                    limits = limits_for(settings, work=LIGHT, size=folder_size(folder))
                    request = ForkRequest(
                        opener=opener.function,
                        model=path,
                        threads=settings.threads,
                        few=few,
                        preload=opener.preload,
                        confinement=confinement_of((folder,), (), limits),
                    )
                    children.append(stack.enter_context(Child(request, limits, NullProgress())))
            return RemoteRunner(children[0], model.name)

        yield turn


def call_forked(
    task: str,
    request: Record,
    reply: type[R],
    *,
    limits: Limits,
    what: str,
    reads: Sequence[Path] | None,
    workdir: Path | None = None,
    progress: Progress | None = None,
) -> R:
    """Run a ``task`` on a graph in a child of the fork server: as ``worker.call``, but without a second of imports.

    Args:
        reads: as for ``worker.call``; for ``None`` that is what runs the task.
        workdir: the folder that the child may write to; a scratch folder in it is removed before this returns.

    Raises:
        TrtpipeError, WorkerError, HostError, InternalError: as for ``worker.call``.
    """
    if reads is None:  # the server has no more of the environment than confined children get
        return call(
            task, request, reply, limits=limits, progress=progress or NullProgress(), what=what, workdir=workdir
        )
    with ExitStack() as stack:
        with starting(what):
            writes = [] if workdir is None else [workdir.absolute(), Path(stack.enter_context(scratch_in(workdir)))]
            fork = ForkRequest(
                task=task,
                preload=(*_TASK_MODULES, task.partition(":")[0]),
                confinement=confinement_of(reads, writes, limits),
                scratch=str(writes[-1]) if writes else "",
            )
            child = stack.enter_context(Child(fork, limits, progress or NullProgress()))
        child.send(request.to_line().encode(), what)
        deadline = time.monotonic() + limits.seconds
        while (message := child.receive(what, deadline)).startswith(b"["):
            child.watch.report(message)
        return reply.model_validate(reply_of(message, what))


def _reason(error: OSError) -> str:
    """Why a child could not be started."""
    if error.strerror is not None and error.filename is not None:
        return f"{error.strerror}: {error.filename}"  # /dev/null, in a container without devices
    limit = address_space_limit()
    narrow = "" if limit is None else f"; the address space is limited to {format_bytes(limit)} (ulimit -v)"
    return (error.strerror or "it ended at once") + narrow


@contextmanager
def starting(what: str) -> Iterator[None]:
    """Turn the system's refusal of a process into a HostError."""
    try:
        yield
    except OSError as error:
        raise HostError(
            f"cannot start a process for {what}: {_reason(error)}",
            "make what is named available, free memory and close files, then run again",
        ) from error
