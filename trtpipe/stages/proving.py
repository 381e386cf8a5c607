"""The first run of a graph that the user gave: in a child, because it may kill or block the process that runs it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Record
from trtpipe.backends.base import load_backend
from trtpipe.backends.worker import LIGHT, Report, call, limits_for
from trtpipe.errors import InputError, StageError
from trtpipe.settings import Settings

if TYPE_CHECKING:
    from trtpipe.artifact import Artifact
    from trtpipe.job import Job
    from trtpipe.progress import Progress

#: Stages that run graphs in their own process.
RUNNING = frozenset({"observe", "calibrate", "verify", "measure"})


class ProofRequest(Record):
    """Run ``model`` once, dynamic inputs in ``shapes``."""

    model: str
    shapes: dict[str, tuple[int, ...]]


class Proof(Record):
    """Whether it could be run; if not, the stage that needs it says why."""

    ran: bool


def prove(graph: Artifact, job: Job, workdir: Path, progress: Progress) -> None:
    """See whether onnxruntime survives the graph.

    Raises:
        WorkerDied: it crashes, or takes too long or too much memory.
    """
    call(
        "trtpipe.stages.proving:prove_task",
        ProofRequest(model=str(graph.path), shapes=job.opt_shapes),
        Proof,
        limits=limits_for(job.settings, work=LIGHT, size=graph.size),
        progress=progress,
        what=f"running {graph.path.name} for the first time",
        workdir=workdir,
        reads=(graph.folder,),
    )


def prove_task(request: ProofRequest, report: Report) -> Proof:
    """Load the graph and run it on one sample of random data (in the worker process)."""
    from trtpipe.calibration.synthetic import RandomDataset
    from trtpipe.onnxfile import read_contract

    model = Path(request.model)
    with suppress(InputError, StageError):
        feed = next(iter(RandomDataset(read_contract(model), request.shapes, samples=1, seed=0))).feed
        with load_backend("onnxruntime").open(model, Settings.from_environment()) as runner:
            runner.infer(feed)
        return Proof(ran=True)
    return Proof(ran=False)
