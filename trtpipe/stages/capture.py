"""capture: a PyTorch source -> ``program.pt2``, for the back-end that compiles PyTorch's own program.

The one other way into a back-end than the lowered graph. 16 bits are written into the program (its weights in 16 bits,
casts at its inputs and outputs), so that here too the precision lies in what is compiled.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.config.source import FactorySource, ModuleSource, OnnxSource, Pt2Source
from trtpipe.engine.record import ProgramRecord
from trtpipe.errors import BuildError, InternalError, StageError
from trtpipe.exporter.request import ExportReply
from trtpipe.isolation.worker import call, limits_for
from trtpipe.stages.export import joined_ranges, torch_request

if TYPE_CHECKING:
    from trtpipe.config.job import Job
    from trtpipe.digest import JSON
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs


class Capture:
    """Writes the program that torch.export makes of the source, in the precision asked for."""

    name = "capture"
    produces = "program"
    version = 2
    packages = ("torch",)

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The source alone."""
        return ("source",)

    def skip(self, job: Job) -> str | None:
        """Only where the back-end compiles programs."""
        wanted = load_backend(job.backend).consumes == "program"
        return None if wanted else f"{job.backend} compiles the lowered graph"

    def key(self, job: Job) -> JSON:
        """What the export depends on, and the precision."""
        export = job.profile.export.to_dict()
        del export["opset"]
        ranges = {name: given.to_dict() for name, given in joined_ranges(job).items()}
        return {"export": export, "shapes": ranges, "precision": job.profile.precision}

    def fingerprint(self, job: Job) -> dict[str, str]:
        """No back-end."""
        return {}

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Export in a child process; a module in hand is exported here, because it lives here."""
        source, precision = job.source, job.profile.precision
        if isinstance(source, OnnxSource):
            raise BuildError(
                f"{source.label}: {job.backend} compiles PyTorch programs, and this is an ONNX graph",
                "give the model as a factory or a .pt2 file, or compile the graph with --backend tensorrt-rtx",
            )
        if isinstance(source, FactorySource):
            request = torch_request(job, source.module, source.function, workdir)
        else:
            request = torch_request(job, str(source.path) if isinstance(source, Pt2Source) else "", "", workdir)
        request = request.model_copy(update={"precision": precision})
        if isinstance(source, ModuleSource):
            from trtpipe.exporter.torch_program import capture_module

            reply = capture_module(source.module, source.example_inputs, request)
        elif isinstance(source, FactorySource | Pt2Source):
            reply = call(
                "trtpipe.exporter.torch_program:capture_task",
                request,
                ExportReply,
                limits=limits_for(job.settings),
                progress=progress,
                what=f"exporting {source.label}",
                workdir=workdir,
                reads=(source.path,) if isinstance(source, Pt2Source) else None,  # a factory is the user's own code
            )
        else:
            raise InternalError("capture was asked to run without a source")
        return Draft("program", workdir, reply.names), tuple(Path(path) for path in reply.files_read)

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """It returns something."""
        if not ProgramRecord.read(draft.sidecar).contract.outputs:
            raise StageError(f"{draft.path.name}: the program returns no tensors", "export one that returns something")
