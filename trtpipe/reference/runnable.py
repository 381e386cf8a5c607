"""What of a job can run on this machine, and on which data: shared by reference, verify and measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtpipe.backends.base import load_backend
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    import onnx_ir as ir

    from trtpipe.accuracy.parity import Contender
    from trtpipe.artifact import Artifact
    from trtpipe.config.formats import Precision
    from trtpipe.config.job import Job
    from trtpipe.data.dataset import Dataset
    from trtpipe.stages.stage import Inputs

#: Feeds of seeded random data where the user gave none.
_SYNTHETIC_FEEDS = 8


@dataclass(frozen=True)
class VerificationData:
    """The samples to compare outputs on.

    Attributes:
        synthetic: whether they are random.
        labeled: whether they are the evaluation data, which may have labels.
    """

    dataset: Dataset
    synthetic: bool
    labeled: bool


def verification_data(job: Job, inputs: Inputs) -> VerificationData:
    """The evaluation data, else the calibration data, else a few seeded random feeds.

    Raises:
        InputError: there is no graph whose inputs random feeds could follow.
    """
    from trtpipe.data.synthetic import RandomDataset
    from trtpipe.preflight.onnx_io import read_contract

    if (evaluation := inputs.datasets.get("evaluation-data")) is not None:
        return VerificationData(evaluation, synthetic=False, labeled=True)
    if (calibration := inputs.datasets.get("calibration-data")) is not None:
        return VerificationData(calibration, isinstance(calibration, RandomDataset), labeled=False)
    label = next((name for name in ("model", "simplified", "lowered") if name in inputs.artifacts), None)
    if label is None:
        raise InputError("there is no graph to verify", "give an ONNX model")
    random = RandomDataset(
        read_contract(inputs.path(label)), job.opt_shapes, _SYNTHETIC_FEEDS, 0, job.every_opt_shapes[1:]
    )
    return VerificationData(random, synthetic=True, labeled=False)


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
    if precision.half is None:
        return path, ""
    from trtpipe.preflight.onnx_io import save_model

    emulated = workdir / "emulated.onnx"
    save_model(_emulated(path), emulated)
    return emulated, f"{precision.half.storage} storage emulated"


def open_watched(
    path: Path, precision: Precision, job: Job, workdir: Path, stack: ExitStack, before: str = ""
) -> Contender:
    """A lowered graph ready to run; where it has 16-bit storage, with that emulated and watched.

    Args:
        before: label of the artifact it was made from.
    """
    from trtpipe.accuracy.parity import Contender
    from trtpipe.preflight.onnx_io import save_model
    from trtpipe.reference.storage import StorageWatch
    from trtpipe.reference.watch_storage import watch_storage

    onnx = load_backend("onnxruntime")
    if precision.half is None:
        return Contender("lowered", stack.enter_context(onnx.open(path, job.settings)), precision, before=before)
    model = _emulated(path)
    probes, makers = watch_storage(model)
    save_model(model, workdir / "emulated.onnx")
    runner = stack.enter_context(onnx.open(workdir / "emulated.onnx", job.settings))
    note = f"{precision.half.storage} storage emulated"
    return Contender("lowered", StorageWatch(runner, probes, makers), precision, note, before)


def _emulated(path: Path) -> ir.Model:
    from trtpipe.passes.graph_pass import run_passes
    from trtpipe.passes.infer_types import InferTypes
    from trtpipe.preflight.onnx_io import load_model
    from trtpipe.reference.emulation import EmulateHalf

    model = load_model(path)
    run_passes(model, [InferTypes(), EmulateHalf()])
    return model
