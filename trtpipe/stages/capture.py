"""capture: a PyTorch source -> ``program.pt2``, for the back-end that compiles PyTorch's own program.

The one other way into a back-end than the lowered graph. 16 bits are written into the program (its weights in 16 bits,
casts at its inputs and outputs), so that here too the precision lies in what is compiled.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.config.build_request import NotNeeded
from trtpipe.config.source import OnnxSource
from trtpipe.config.stage_settings import CaptureSettings, TorchExportSettings
from trtpipe.engine.record import ProgramRecord
from trtpipe.errors import BuildError, StageError
from trtpipe.stages.export import export_torch, torch_request
from trtpipe.stages.stage import SOURCE, Stage

if TYPE_CHECKING:
    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.settings import Settings
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

#: A program has no opset.
_NO_OPSET = 20
_EXPORTERS = ("trtpipe.exporter.torch_program:capture_module", "trtpipe.exporter.torch_program:capture_task")


class Capture(Stage[CaptureSettings]):
    """Writes the program that torch.export makes of the source, in the precision asked for."""

    name = "capture"
    produces = "program"
    version = 4
    packages = ("torch",)

    def settings(self, request: BuildRequest) -> CaptureSettings | NotNeeded:
        if load_backend(request.backend).consumes != "program":
            return NotNeeded(reason=f"{request.backend} compiles the lowered graph")
        profile = request.profile
        return CaptureSettings(program=TorchExportSettings.of(profile), half=profile.precision.half)

    def consumes(self, settings: CaptureSettings) -> tuple[str, ...]:
        return (SOURCE,)

    def run(
        self, settings: CaptureSettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> Draft:
        source = inputs.source
        if isinstance(source, OnnxSource):
            raise BuildError(
                f"{source.label}: engines are to be compiled from a PyTorch program, and this is an ONNX graph",
                "give the model as a factory or a .pt2 file, or compile the graph with --backend tensorrt-rtx",
            )
        request = torch_request(settings.program, _NO_OPSET, workdir).model_copy(update={"half": settings.half})
        reply = export_torch(source, request, _EXPORTERS, runtime, progress)
        return Draft("program", workdir, reply.names, observed=reply.observed)

    def check(self, draft: Draft, inputs: Inputs) -> None:
        if not ProgramRecord.read(draft.sidecar).contract.outputs:
            raise StageError(f"{draft.path.name}: the program returns no tensors", "export one that returns something")
