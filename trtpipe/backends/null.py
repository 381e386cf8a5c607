"""The null back-end: placeholder engines, for tests only.

It builds in a real worker process and opens what it built, so that all code above a back-end can be tested without
TensorRT. Tests can name another task for the worker to run, such as one that crashes.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import IOContract, Record
from trtpipe.backends.base import Backend, EngineRequest, OpenRunner, Refusal
from trtpipe.config.profile import ShapeRange
from trtpipe.digest import sha256_bytes, sha256_file
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import InputError
from trtpipe.isolation.worker import Report, call, limits_for
from trtpipe.preflight import folder_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from trtpipe.artifact import Feed, TensorSpec
    from trtpipe.config.profile import DeploymentProfile
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import Target
    from trtpipe.progress import Progress

_VERSION = "1"


class NullBehavior(Record):
    """How a null back-end behaves.

    Attributes:
        task: the task that builds, by its dotted name.
        refusal: the reason that ``refuses`` gives; empty: it accepts every model.
    """

    task: str = "trtpipe.backends.null:build_task"
    refusal: str = ""


class NullRequest(Record):
    """One build: paths, the target's name and the optimization profiles."""

    model: str
    plan: str
    target: str
    shapes: tuple[dict[str, ShapeRange], ...] = ()


class NullEngine(Record):
    """The content of a placeholder: the model's digest, the target and the model's I/O."""

    model: str
    target: str
    io: IOContract


class Null(Backend):
    """The back-end that needs nothing installed."""

    name = "null"

    def __init__(self, behavior: NullBehavior | None = None) -> None:
        self._behavior = behavior or NullBehavior()

    def fingerprint(self, settings: Settings) -> dict[str, str]:
        return {"null": _VERSION}

    def refuses(self, model: Path | None, profile: DeploymentProfile, target: Target) -> Refusal | None:
        return Refusal(self._behavior.refusal, "choose another back-end") if self._behavior.refusal else None

    def runs(self, target: Target) -> Refusal | None:
        """Never: a placeholder opens, but holds no computation to verify or to time."""
        return Refusal("null engines are placeholders, for tests only", "build with --backend tensorrt-rtx or tensorrt")

    def build(self, request: EngineRequest, progress: Progress) -> EngineRecord:
        """Write a placeholder that is a function of the model's content and the target; one for each target.

        Raises:
            InputError: the model is no ONNX file.
            TrtpipeError: as ``NullBehavior.task`` fails.
        """
        (target,), model, options = request.targets, request.model, request.profile.build
        return call(
            self._behavior.task,
            NullRequest(model=str(model), plan=str(request.plan), target=target.name, shapes=request.profile.shapes),
            EngineRecord,
            limits=limits_for(
                request.settings, options.time_limit, options.memory_limit, size=folder_size(model.parent)
            ),
            progress=progress,
            what=f"building {target} from {model.name}",
            workdir=request.plan.parent,
            reads=(model.parent,),
        )

    @contextmanager
    def open(self, model: Path, settings: Settings) -> Iterator[NullRunner]:
        """Open a placeholder.

        Raises:
            InputError: the file is none.
        """
        yield NullRunner(NullEngine.read(model))


class NullRunner(OpenRunner):
    """Gives the same arrays for every feed, drawn from the model's digest and the output's name: they mean nothing."""

    device = "null engine"
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, engine: NullEngine) -> None:
        self._engine = engine
        self.inputs, self.outputs = engine.io.inputs, engine.io.outputs

    def infer(self, feed: Feed) -> Feed:
        """Outputs of the shapes and types in the I/O contract; named dimensions are as long as in ``feed``, others 1.

        Raises:
            InputError: ``feed`` does not name the model's inputs.
        """
        wanted = {spec.name for spec in self.inputs}
        if feed.keys() != wanted:
            raise InputError(
                f"the feed names {sorted(feed)}, the engine's inputs are {sorted(wanted)}", "feed every input"
            )
        lengths = {
            str(dim): length
            for spec in self.inputs
            for dim, length in zip(spec.shape or (), feed[spec.name].shape, strict=False)
        }
        return {spec.name: self._values(spec, lengths) for spec in self.outputs}

    def _values(self, spec: TensorSpec, lengths: dict[str, int]) -> np.ndarray:
        import ml_dtypes  # noqa: F401 - teaches numpy the names of the small float types
        import numpy as np

        shape = [dim if isinstance(dim, int) else lengths.get(str(dim), 1) for dim in spec.shape or ()]
        seed = int(sha256_bytes(f"{self._engine.model}:{spec.name}".encode())[:16], 16)
        return np.random.default_rng(seed).integers(0, 2, size=shape).astype(spec.dtype)


def build_task(request: NullRequest, report: Report) -> EngineRecord:
    """Write a placeholder (in the worker process)."""
    from trtpipe.preflight.onnx_io import read_contract

    started = time.monotonic()
    report("building", 0, 1)
    model = Path(request.model)
    contract = read_contract(model)
    engine = NullEngine(model=sha256_file(model), target=request.target, io=contract)
    engine.write(Path(request.plan))
    report("building", 1, 1)
    return EngineRecord(
        flavor=Null.name,
        version=_VERSION,
        target=request.target,
        profiles=request.shapes,
        io=engine.io,
        build_seconds=time.monotonic() - started,
    )
