"""The interface of a back-end and of what it opens, and the table of the back-ends there are."""

from __future__ import annotations

import importlib
import importlib.util
import time
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from trtpipe.config.requirements import install
from trtpipe.errors import HostError, InternalError
from trtpipe.isolation.reducer import LocalReduction, Runner, load_reducer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from trtpipe.artifact import Feed
    from trtpipe.backends.timing import DeviceRunner
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import Target
    from trtpipe.engine.record import EngineRecord
    from trtpipe.isolation.interpreter import Interpreter
    from trtpipe.isolation.reducer import Reduction
    from trtpipe.progress import Progress


@dataclass(frozen=True)
class Refusal:
    """Why something was not done, and what would help."""

    reason: str
    remedy: str


@dataclass(frozen=True)
class EngineRequest:
    """An engine to build.

    Attributes:
        model: what the back-end ``consumes``.
        profile: shapes and options of the builder.
        targets: one, or several that are ``shareable``.
        plan: the file to write.
        python: the environment whose TensorRT builds it, where that is not this process's own.
    """

    model: Path
    profile: DeploymentProfile
    targets: tuple[Target, ...]
    plan: Path
    settings: Settings
    python: Interpreter | None = None


def known_inputs(runner: Runner, feed: Feed) -> Feed:
    """What of ``feed`` the model takes."""
    names = {spec.name for spec in runner.inputs}
    return {name: value for name, value in feed.items() if name in names}


class OpenRunner(Runner, Protocol):
    """What a back-end opens. A class that derives from it runs in this process unless it says otherwise."""

    @property
    def gpu(self) -> DeviceRunner | None:
        """What an engine on a GPU offers in addition; ``None`` for every other runner."""
        return None

    def infer_all(self, feeds: Sequence[Feed]) -> list[Feed]:
        """As ``infer`` for every feed; many small ones are faster together."""
        return [self.infer(feed) for feed in feeds]

    def reduced(self, reducer: str, names: Sequence[str]) -> Reduction:
        """Run the model and hand its outputs to a reducer.

        Args:
            reducer: ``trtpipe.module:Class`` of the reducer, made from ``names``.
        """
        return LocalReduction(self.infer, load_reducer(reducer, names))

    def time(self, feed: Feed) -> float:
        """Run once and drop the result.

        Returns:
            Seconds until the outputs are in host memory.
        """
        begin = time.perf_counter()
        self.infer(feed)
        return time.perf_counter() - begin


class Turn(Protocol):
    """Opens the models of one folder, each in place of the one before; raises what ``Backend.open`` raises."""

    def __call__(self, model: Path, *, few: bool = False) -> OpenRunner:
        """Open a model.

        Args:
            few: whether it runs a few times only, so that what makes it fast would cost more than it saves.
        """


class Backend(Protocol):
    """Builds engines and opens them. Derive from it: what only some back-ends can do has a default here."""

    @property
    def name(self) -> str:
        """As the user names it, and its key in ``BACKENDS``."""

    @property
    def consumes(self) -> Literal["lowered", "program"]:
        """The kind of artifact it builds from: a lowered ONNX graph, or a PyTorch program."""
        return "lowered"

    @property
    def quick_reports(self) -> bool:
        """Whether a build needs no device, takes seconds and reports the layers of the engine.

        Several lowered graphs can then be compared by building them.
        """
        return False

    def fingerprint(self, settings: Settings) -> dict[str, str]:
        """What of this back-end enters a key: versions, and the device where it matters. Imports no vendor package."""

    def refuses(self, model: Path | None, profile: DeploymentProfile, target: Target) -> Refusal | None:
        """Why this model cannot be built here for ``target``, as far as is known without building.

        Without a model the question is about the target alone.
        """

    def refuses_nodes(self, model: Path, profile: DeploymentProfile, settings: Settings) -> Refusal | None:
        """Which nodes of a graph in float32 the back-end's own parser will not take, and what to do; asked before any
        calibration data is read. ``None`` where it takes all, or has no parser that tells without building.

        Raises:
            HostError: the parser does not start on this machine.
            WorkerError: the child process that parsed crashed, hung or ran out of memory.
        """
        return None

    def runs(self, target: Target) -> Refusal | None:
        """Why an engine for ``target`` cannot run on this machine, or ``None`` if it can. Imports no vendor package."""

    def shareable(self, targets: Sequence[Target]) -> tuple[Target, ...]:
        """Those of ``targets`` that one engine can serve; empty where every target needs an engine of its own."""
        return ()

    def build(self, request: EngineRequest, progress: Progress) -> EngineRecord:
        """Build an engine and write its plain bytes to ``request.plan``, when it is complete.

        Raises:
            BuildError: the graph cannot be built for one of the targets.
            InputError: the profile's shapes do not fit the model.
            WorkerError: the child process that built crashed, hung or ran out of memory.
            HostError: the package or the device is missing, or the disk is full.
        """

    def open(self, model: Path, settings: Settings) -> AbstractContextManager[OpenRunner]:
        """Open an engine (or, for onnxruntime, an ONNX file) for inference.

        Raises:
            HostError: it cannot run on this machine.
        """

    @contextmanager
    def in_turn(self, settings: Settings) -> Iterator[Turn]:
        """A function that opens the models of one folder, each in place of the one before."""
        with ExitStack() as last:

            def turn(model: Path, *, few: bool = False) -> OpenRunner:
                last.close()
                return last.enter_context(self.open(model, settings))

            yield turn

    def prestart(self, settings: Settings) -> None:
        """Models will be opened soon: start now what takes time to start, in parallel with other work."""
        return


#: name -> (module that must be installed, "module:class" of the back-end)
BACKENDS: dict[str, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "trtpipe.backends.tensorrt:TensorRT"),
    "tensorrt-rtx": ("tensorrt_rtx", "trtpipe.backends.tensorrt_rtx:TensorRTRTX"),
    "torch-tensorrt": ("torch_tensorrt", "trtpipe.backends.torch_tensorrt:TorchTensorRT"),
    "onnxruntime": ("onnxruntime", "trtpipe.backends.onnxruntime:OnnxRuntime"),
    "null": ("trtpipe", "trtpipe.backends.null:Null"),
}

#: name -> the extra of trtpipe that brings its package, and what to say around the command that installs that
_EXTRAS: dict[str, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "on a machine with an NVIDIA GPU: {}; without one: --backend tensorrt-rtx"),
    "tensorrt-rtx": ("rtx", "{}"),
    "torch-tensorrt": ("torch-tensorrt", "in an environment of its own: {}"),
    "onnxruntime": ("runtime-cpu", "{}"),
}


def installing(name: str) -> str:
    """How to install the package of the back-end ``name``."""
    extra, words = _EXTRAS[name]
    return words.format(install(extra))


def missing(name: str) -> Refusal | None:
    """Why the back-end ``name`` cannot be used: its package is not installed. Imports nothing."""
    package, _ = BACKENDS[name]
    if importlib.util.find_spec(package) is not None:
        return None
    return Refusal(f"backend {name!r} needs the package {package!r}, which is not installed", installing(name))


def load_backend(name: str, *, elsewhere: bool = False) -> Backend:
    """The back-end called ``name``.

    Args:
        elsewhere: whether another environment builds with it, so that its package may be missing here.

    Raises:
        HostError: its package is not installed.
    """
    if name not in BACKENDS:
        raise InternalError(f"no back-end is called {name!r}")
    if not elsewhere and (refusal := missing(name)):
        raise HostError(refusal.reason, refusal.remedy)
    module, _, attribute = BACKENDS[name][1].partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)()
    return backend
