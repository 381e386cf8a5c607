"""simplify: ``model.onnx`` -> ``simplified.onnx``, the same function in fewer nodes, at an opset lowering can use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.config.build_request import typical_shapes
from trtpipe.config.stage_settings import SimplifySettings
from trtpipe.errors import Cancelled, OutOfMemory, OutOfTime, StageError, WorkerError
from trtpipe.exporter.request import RUN, SIMPLIFIED, SimplifyReply, SimplifyRequest
from trtpipe.isolation.remote_runner import call_forked
from trtpipe.isolation.worker import LIGHT, limits_for
from trtpipe.passes.opsets import LEAST_OPSET
from trtpipe.preflight.onnx_io import read_contract, read_proto
from trtpipe.report.stage_records import SimplifyRecord
from trtpipe.stages.stage import FIRST_SAMPLES, Noting, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from trtpipe.artifact import Artifact
    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.profile import OptimizationProfile
    from trtpipe.config.settings import Settings
    from trtpipe.isolation.worker import Limits
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

FEEDS = "feeds.npz"


class Simplify(Stage[SimplifySettings], Noting):
    """Runs onnxsim and our own passes in a child process; the input goes on where they fail or change the result."""

    name = "simplify"
    produces = "simplified"
    version = 21
    packages = ("onnxsim", "onnx", "onnx-ir", "onnxruntime", "numpy")

    def settings(self, request: BuildRequest) -> SimplifySettings:
        profile = request.profile
        return SimplifySettings(
            onnxsim=request.simplify,
            opset=max([LEAST_OPSET, *(form.opset for form in profile.precision.formats)]),
            shapes=typical_shapes(profile)[0],
            fixed=_fixed(profile.shapes),
        )

    def consumes(self, settings: SimplifySettings) -> tuple[str, ...]:
        return ("model", FIRST_SAMPLES)

    def run(
        self, settings: SimplifySettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> Draft:
        """Try with onnxsim, then without, then without any rewriting that could change what is computed."""
        load_backend("onnxruntime").prestart(runtime)
        nodes = len(read_proto(inputs.path("model")).graph.node)
        limits = limits_for(runtime, work=LIGHT, size=inputs.artifacts["model"].size, nodes=nodes)
        request = SimplifyRequest(
            model=str(inputs.path("model")),
            workdir=str(workdir),
            onnxsim=settings.onnxsim,
            opset=settings.opset,
            feeds=_write_feeds(inputs, workdir),
            shapes=settings.shapes,
            fixed=settings.fixed,
        )
        while True:
            try:
                reply = _attempt(request, limits, progress)
                break
            except (OutOfTime, OutOfMemory, Cancelled):
                raise  # a limit of the machine is no property of the model: what is stored may not depend on it
            except (StageError, WorkerError) as error:
                if not request.rewrite or (isinstance(error, WorkerError) and error.phase == RUN):
                    raise  # in the second case running the model as it came is what failed
                request = _next_attempt(request, error.message)
                for leftover in workdir.glob(f"{SIMPLIFIED}*"):
                    leftover.unlink()
        (workdir / FEEDS).unlink(missing_ok=True)
        return Draft("simplified", workdir, (*reply.names, f"{SIMPLIFIED}.json"))

    def warnings(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """What failed, and which graph is used instead."""
        return SimplifyRecord.read(artifact.sidecar).warnings

    def notes(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """What was resolved, or not done."""
        return SimplifyRecord.read(artifact.sidecar).notes

    def check(self, draft: Draft, inputs: Inputs) -> None:
        broken = read_contract(inputs.path("model")).difference(read_contract(draft.path))
        if broken:
            raise StageError(f"simplification changed the interface: {broken}", "run again with --no-simplify")


def _attempt(request: SimplifyRequest, limits: Limits, progress: Progress) -> SimplifyReply:
    return call_forked(
        "trtpipe.exporter.simplification:simplify",
        request,
        SimplifyReply,
        limits=limits,
        progress=progress,
        what=f"simplifying {Path(request.model).name}",
        workdir=Path(request.workdir),
        reads=(Path(request.model).parent,),
    )


def _next_attempt(request: SimplifyRequest, failure: str) -> SimplifyRequest:
    """The next attempt after a failed one: without onnxsim, then without any rewriting."""
    what, instead = ("onnxsim", "unsimplified") if request.onnxsim else ("rewriting", "given")
    warning = f"{what} failed: {failure}; the {instead} graph is used"
    given_up = {"onnxsim": False} if request.onnxsim else {"rewrite": False}
    return request.model_copy(update={**given_up, "warnings": (*request.warnings, warning)})


def _write_feeds(inputs: Inputs, workdir: Path) -> str:
    """The first samples of the user's data, for the child process; nothing if there is no data."""
    import numpy as np

    if not inputs.first_samples:
        return ""
    path = workdir / FEEDS
    # Feeds are in the order of the model's inputs, whose names may not do as file names inside the archive.
    arrays: dict[str, Any] = {
        f"{i}_{j}": plain(value) for i, feed in enumerate(inputs.first_samples) for j, value in enumerate(feed.values())
    }
    np.savez(path, **arrays)
    return str(path)


def plain(value: np.ndarray) -> np.ndarray:
    """``value``, as bytes where numpy's files have no word for its type (bfloat16, float8).

    Its type's own word is asked: an array that was unpickled, as those of a loader's workers are, has a copy of its
    type, which does not count as built in.
    """
    import numpy as np

    own = np.dtype(value.dtype.type).isbuiltin == 1
    return value if own else value.view(f"u{value.dtype.itemsize}")


def _fixed(profiles: Sequence[OptimizationProfile]) -> dict[str, tuple[int | None, ...]]:
    """Of every input with ranges, the numbers that never vary; nothing of one that some profile leaves out."""
    names = [name for name in profiles[0] if all(name in each for each in profiles)] if profiles else []
    corners = {name: [c for each in profiles for c in (each[name].min, each[name].max)] for name in names}
    return {
        name: tuple(numbers[0] if len(set(numbers)) == 1 else None for numbers in zip(*shapes, strict=False))
        for name, shapes in corners.items()
    }
