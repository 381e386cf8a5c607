"""What of a job can run on this machine: shared by verify and measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.backends.base import load_backend
from trtpipe.profile import HALF

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.artifact import Artifact
    from trtpipe.job import Inputs, Job
    from trtpipe.profile import Precision


def runnable(job: Job) -> bool:
    """Whether any of the job's engines can run on this machine."""
    return any(load_backend(job.backend).runs(target) is None for target in job.targets)


def runnable_engines(job: Job, inputs: Inputs) -> list[Artifact]:
    """The engines that can run here."""
    backend = load_backend(job.backend)
    names = {target.name for target in job.targets if backend.runs(target) is None}
    return [engine for engine in inputs.engines() if engine.target in names]


def runnable_graph(path: Path, precision: Precision, workdir: Path) -> tuple[Path, str]:
    """The graph the CPU runs for ``path``: 16-bit graphs with their storage emulated, all others as they are."""
    if precision not in HALF:
        return path, ""
    from trtpipe.onnxfile import load_model, save_model
    from trtpipe.passes.emulate_half import EmulateHalf
    from trtpipe.passes.graph_pass import run_passes
    from trtpipe.passes.infer_types import InferTypes

    model = load_model(path)
    run_passes(model, [InferTypes(), EmulateHalf()])
    emulated = workdir / "emulated.onnx"
    save_model(model, emulated)
    return emulated, f"{HALF[precision]} storage emulated"
