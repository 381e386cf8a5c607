"""onnxruntime in processes of its own: a graph that crashes, hangs or swells ends as a typed error, not the parent.

One child is confined to one graph, or to one folder whose graphs take turns. All are forked from a nursery that has
imported onnxruntime once, half a second that not every graph need wait for. Arrays lie in memory that both processes
share. Short tasks can be had done there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.config.toolchain import version
from trtpipe.errors import HostError
from trtpipe.isolation.exit_status import Outcome, raise_from
from trtpipe.isolation.fork_client import Child, nursery
from trtpipe.isolation.worker import LIGHT, limits_for
from trtpipe.preflight import folder_size

if TYPE_CHECKING:
    from trtpipe.artifact import Feed, R, Record, TensorSpec
    from trtpipe.config.settings import Settings
    from trtpipe.isolation.fork_server import Act, Found, Wish
    from trtpipe.isolation.reducer import Reduction
    from trtpipe.isolation.worker import Limits

DEVICE = "onnxruntime {} on CPU"


class ApartRunner:
    """A graph that is open in another process.

    Args:
        child: the process, which has been asked to open it.
        what: the graph's name.
    """

    #: It runs on the CPU.
    gpu: None = None

    def __init__(self, child: Child, name: str) -> None:
        from trtpipe.isolation.fork_server import Opened

        self._child = child
        self._name = name
        opened = Opened.model_validate(_done(child.hear(f"opening {name}"), f"opening {name}"))
        self._inputs, self._outputs = opened.inputs, opened.outputs

    @property
    def device(self) -> str:
        """``onnxruntime <version> on CPU``."""
        return DEVICE.format(version("onnxruntime"))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs."""
        return self._outputs

    def infer(self, feed: Feed) -> Feed:
        """Run once.

        Raises:
            InputError: onnxruntime refuses the feed, or fails on it.
            WorkerError: it crashed, or took too long or too much memory.
        """
        return self.infer_all([feed])[0]

    def infer_all(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Run once for each feed, all with one message; raises what ``infer`` raises."""
        return self._given(self._ask("infer", feeds))

    def reduced(self, reducer: str, names: Sequence[str]) -> Reduction:
        """What runs the model and hands its outputs to a reducer, in the child."""
        return _ReductionApart(self, reducer, tuple(names))

    def time(self, feed: Feed) -> float:
        """Seconds of one run, in the child; raises what ``infer`` raises."""
        return self._ask("time", [feed]).seconds

    def _given(self, found: Found) -> list[Feed]:
        """Copies of what lies in the shared memory."""
        return [self._child.arena.unpack(each, copy=True) for each in found.outputs]

    def _ask(self, act: Act, feeds: Sequence[Feed] = (), what: str = "", names: tuple[str, ...] = ()) -> Found:
        from trtpipe.isolation.fork_server import FOUND, ORDER, Order

        running = f"running {self._name}"
        self._child.tell(ORDER.dump_json(Order(act, self._child.arena.pack(feeds), what, names)), running)
        letter = self._child.hear(running)
        return FOUND.validate_json(letter) if letter.startswith(b"[") else FOUND.validate_python(_done(letter, running))


class _ReductionApart:
    """A reduction in the child; its methods raise what ``ApartRunner.infer`` raises, and what the reducer raises."""

    def __init__(self, runner: ApartRunner, reducer: str, names: tuple[str, ...]) -> None:
        self._runner = runner
        runner._ask("reducer", what=reducer, names=names)

    def run(self, feed: Feed) -> Feed:
        """Run once; the outputs that the reducer leaves."""
        return self._runner._given(self._runner._ask("reduce", [feed]))[0]

    def result(self) -> Feed:
        """What all runs came to since it was last asked."""
        return self._runner._given(self._runner._ask("result"))[0]


def _done(letter: bytes, what: str) -> dict[str, object]:
    outcome = Outcome.model_validate_json(letter)
    if outcome.kind != "done":
        raise_from(outcome, what)
    return outcome.reply


def expect_children(settings: Settings) -> None:
    """Graphs will run before long: start what forks their children now, beside other work."""
    if settings.apart:
        with suppress(OSError):  # whoever needs it tries again, and is told
            nursery(os.getpid()).wake()


@contextmanager
def opened_apart(model: Path, settings: Settings) -> Iterator[ApartRunner]:
    """Open an ONNX file in a child that may read its folder, and nothing else.

    Raises:
        StageError: onnxruntime cannot load the model; the message carries its reason.
        WorkerError: it crashes, or takes too long or too much memory.
        HostError: no child can be started.
    """
    with opening_apart(settings) as turn:
        yield turn(model)


@contextmanager
def opening_apart(settings: Settings) -> Iterator[Callable[[Path], ApartRunner]]:
    """What opens ONNX files of one folder in one child, each in place of the one before; raises what
    ``opened_apart`` raises.
    """
    from trtpipe.isolation.fork_server import ORDER, Order, Wish

    born: list[Child] = []
    with ExitStack() as stack:

        def turn(model: Path) -> ApartRunner:
            folder, what = model.parent.absolute(), f"running {model.name}"
            path = str(folder / model.name)
            if born:
                born[0].tell(ORDER.dump_json(Order("open", [], path)), what)
            else:
                with _starting(what):
                    limits = limits_for(settings, work=LIGHT, size=folder_size(folder))
                wish = Wish(model=path, places=_places((folder,), limits), threads=settings.threads)
                born.append(stack.enter_context(_born(wish, limits, what)))
            return ApartRunner(born[0], model.name)

        yield turn


def call_apart(task: str, request: Record, reply: type[R], *, limits: Limits, what: str, reads: Sequence[Path]) -> R:
    """Run a short ``task`` of ours in a child that may write nothing: as ``worker.call``, without half a second of
    imports, without progress and without a folder.

    Raises:
        TrtpipeError: the very error that the task raised.
        WorkerError: the child crashed, ran out of time or memory, or ended without an answer.
        HostError: no child can be started.
    """
    from trtpipe.isolation.fork_server import Wish

    with _born(Wish(task=task, places=_places(reads, limits)), limits, what) as child:
        child.tell(request.model_dump_json().encode(), what)
        return reply.model_validate(_done(child.hear(what), what))


def _places(reads: Sequence[Path], limits: Limits) -> str:
    return json.dumps({"reads": [str(path.absolute()) for path in reads], "writes": []}) if limits.confined else ""


@contextmanager
def _born(wish: Wish, limits: Limits, what: str) -> Iterator[Child]:
    with ExitStack() as stack:
        with _starting(what):
            child = stack.enter_context(Child(wish, limits))
        yield child


@contextmanager
def _starting(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(
            f"cannot start a process for {what}: {error.strerror or 'it ended at once'}",
            "free memory and close files, then run again",
        ) from error
