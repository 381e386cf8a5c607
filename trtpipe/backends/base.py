"""The door of a back-end, and the explicit list of the rooms behind it."""

from __future__ import annotations

import importlib
import importlib.util
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from trtpipe.artifact import TensorSpec
from trtpipe.errors import HostError, InternalError
from trtpipe.isolation.reducer import LocalReduction, load_reducer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trtpipe.artifact import Feed
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import Target
    from trtpipe.engine.record import EngineRecord
    from trtpipe.isolation.reducer import Reduction
    from trtpipe.progress import Progress


@dataclass(frozen=True)
class Refusal:
    """Why something was not done, and what would help."""

    reason: str
    remedy: str


class Runner(Protocol):
    """A model or engine that is ready to infer."""

    @property
    def device(self) -> str:
        """Where it runs, in words fit for a report (``onnxruntime 1.32.0 on CPU``)."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def infer(self, feed: Feed) -> Feed:
        """Run once. ``feed`` must name every input; the result names every output."""


class OpenRunner(Runner, Protocol):
    """What a back-end opens: a runner that can also hand its outputs to a reducer, and time itself."""

    def infer_all(self, feeds: Sequence[Feed]) -> list[Feed]:
        """As ``infer`` for every feed; many small ones are quicker together."""

    def reduced(self, reducer: str, names: Sequence[str]) -> Reduction:
        """What runs the model and hands its outputs to a reducer.

        Args:
            reducer: ``trtpipe.module:Class`` of the reducer, made from ``names``.
        """

    def time(self, feed: Feed) -> float:
        """Run once and forget the result; the seconds it took, until it lay in memory."""


class SimpleRunner:
    """Everything happens in this process, and time is time on the clock."""

    def infer(self, feed: Feed) -> Feed:
        """Run once."""
        raise NotImplementedError

    def infer_all(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Run once for each."""
        return [self.infer(feed) for feed in feeds]

    def reduced(self, reducer: str, names: Sequence[str]) -> Reduction:
        """What runs the model and hands its outputs to a reducer."""
        return LocalReduction(self.infer, load_reducer(reducer, names))

    def time(self, feed: Feed) -> float:
        """Seconds of one run, on the clock."""
        begin = time.perf_counter()
        self.infer(feed)
        return time.perf_counter() - begin


class Backend(Protocol):
    """A few questions; domain types only.

    Attributes:
        name: as the user names it.
        consumes: the kind of artifact it builds from: ``lowered`` (an ONNX graph) or ``program`` (PyTorch's).
        quick_reports: whether a build needs no device, takes seconds and reports the layers of the engine, so that
            several lowered graphs can be compared by building them.
    """

    name: str
    consumes: Literal["lowered", "program"]
    quick_reports: bool

    def fingerprint(self, settings: Settings) -> dict[str, str]:
        """What of this back-end enters a key: versions, and the device where it matters. Imports no vendor package."""

    def refuses(self, model: Path | None, profile: DeploymentProfile, target: Target) -> Refusal | None:
        """Why this model cannot be built here for ``target``, as far as can be told without building.

        Without a model the question is about the target alone.
        """

    def runs(self, target: Target) -> Refusal | None:
        """Why an engine for ``target`` cannot run on this machine, or ``None`` if it can. Imports no vendor package."""

    def build(
        self,
        model: Path,
        profile: DeploymentProfile,
        target: Target,
        plan: Path,
        settings: Settings,
        progress: Progress,
    ) -> EngineRecord:
        """Build an engine and write its plain bytes to ``plan``.

        Raises:
            BuildError: the graph cannot be built for the target.
            WorkerError: the child process that built crashed, hung or ran out of memory.
            HostError: the package or the device is missing.
        """

    def open(self, model: Path, settings: Settings) -> AbstractContextManager[OpenRunner]:
        """Open an engine (or, for onnxruntime, an ONNX file) for inference.

        Raises:
            HostError: it cannot run on this machine.
        """


@runtime_checkable
class SharesPlans(Protocol):
    """A back-end that can build one plan for several targets at once."""

    def shareable(self, targets: Sequence[Target]) -> tuple[Target, ...]:
        """Those of ``targets`` that may share a plan."""

    def build_shared(
        self,
        model: Path,
        profile: DeploymentProfile,
        targets: Sequence[Target],
        plan: Path,
        settings: Settings,
        progress: Progress,
    ) -> EngineRecord:
        """As ``build``, for all of ``targets``; fails if it cannot be built for one of them."""


@runtime_checkable
class OpensInTurn(Protocol):
    """A back-end that can open one graph after another for less than each by itself."""

    def in_turn(self, settings: Settings) -> AbstractContextManager[Callable[[Path], OpenRunner]]:
        """What opens the graphs of one folder, each in place of the one before; raises what ``open`` raises."""

    def prestart(self, settings: Settings) -> None:
        """Graphs will be opened before long: start now, beside other work, what takes time to start."""


#: name -> (module that must be installed, "module:class" of the room)
BACKENDS: dict[str, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "trtpipe.backends.tensorrt:TensorRT"),
    "tensorrt-rtx": ("tensorrt_rtx", "trtpipe.backends.tensorrt_rtx:TensorRTRTX"),
    "torch-tensorrt": ("torch_tensorrt", "trtpipe.backends.torch_tensorrt:TorchTensorRT"),
    "onnxruntime": ("onnxruntime", "trtpipe.backends.onnxruntime:OnnxRuntime"),
    "null": ("trtpipe", "trtpipe.backends.null:Null"),
}

_REMEDIES = {
    "tensorrt": "on a machine with an NVIDIA GPU: pip install 'trtpipe[tensorrt]'; without one: --backend tensorrt-rtx",
    "tensorrt-rtx": "pip install 'trtpipe[rtx]'",
    "torch-tensorrt": "in an environment of its own: pip install 'trtpipe[torch-tensorrt]'",
    "onnxruntime": "pip install onnxruntime",
}


def missing(name: str) -> Refusal | None:
    """Why the back-end ``name`` cannot be used: its package is not installed. Imports nothing."""
    package, _ = BACKENDS[name]
    if importlib.util.find_spec(package) is not None:
        return None
    return Refusal(f"backend {name!r} needs the package {package!r}, which is not installed", _REMEDIES[name])


def load_backend(name: str) -> Backend:
    """The room called ``name``.

    Raises:
        HostError: its package is not installed.
    """
    if name not in BACKENDS:
        raise InternalError(f"no back-end is called {name!r}")
    if refusal := missing(name):
        raise HostError(refusal.reason, refusal.remedy)
    module, _, attribute = BACKENDS[name][1].partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)()
    return backend
