"""export: any source -> ``model.onnx``, self-contained and checked."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.config.build_request import typical_shapes
from trtpipe.config.preprocessing import FoldedPreprocessing
from trtpipe.config.source import FactorySource, ModuleSource, OnnxSource, Pt2Source, sha256_of_pt2
from trtpipe.config.stage_settings import ExportStageSettings, TorchExportSettings
from trtpipe.errors import InputError, InternalError, StageError
from trtpipe.exporter.process import call_on
from trtpipe.exporter.request import MODEL, ExportReply, FoldRequest, OnnxRequest, TorchRequest
from trtpipe.isolation.imports import load_name
from trtpipe.isolation.remote_runner import call_forked
from trtpipe.isolation.worker import LIGHT, limits_for
from trtpipe.preflight import folder_size, seal_model
from trtpipe.report.stage_records import ExportRecord
from trtpipe.stages.stage import SOURCE, Noting, Stage

if TYPE_CHECKING:
    from trtpipe.artifact import Artifact
    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.settings import Settings
    from trtpipe.config.source import Source
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

_EXPORTERS = ("trtpipe.exporter.torch_export:export_module", "trtpipe.exporter.torch_export:export_program")


class Export(Stage[ExportStageSettings], Noting):
    """Turns the source into one checked ONNX model."""

    name = "export"
    produces = "model"
    version = 9
    packages = ("torch", "onnx", "onnxscript", "onnx-ir")

    def settings(self, request: BuildRequest) -> ExportStageSettings:
        profile, folded = request.profile, FoldedPreprocessing.of(request.profile, request.recipe)
        shapes = {} if folded is None else typical_shapes(profile)[0]
        if isinstance(request.source, OnnxSource):
            half = None if profile.precision.quantized else profile.precision.half
            return ExportStageSettings(
                freeze=profile.export.freeze_inputs,
                requantize=profile.requantize,
                kept=half if half is not None and half.cpu_kernels else None,
                preprocessing=folded,
                shapes=shapes,
            )
        program = TorchExportSettings.of(profile, folded)
        return ExportStageSettings(
            opset=profile.export.opset,
            program=program,
            requantize=profile.requantize,
            preprocessing=folded,
            shapes=shapes,
        )

    def consumes(self, settings: ExportStageSettings) -> tuple[str, ...]:
        return (SOURCE,)

    def run(
        self, settings: ExportStageSettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> Draft:
        source = inputs.source
        if isinstance(source, OnnxSource):
            reply = _copy(settings, source, inputs.source_digest, workdir, runtime, progress)
        else:
            assert settings.opset is not None and settings.program is not None  # noqa: PT018
            request = torch_request(settings.program, settings.opset, workdir)
            own = {"preprocessing": settings.preprocessing, "requantize": settings.requantize}
            request = request.model_copy(update=own)
            reply = export_torch(source, request, _EXPORTERS, runtime, progress)
        if settings.preprocessing is not None:
            reply = _with_preprocessing(settings, settings.preprocessing, reply, workdir, runtime, progress)
        if isinstance(source, Pt2Source) and inputs.source_digest not in ("", sha256_of_pt2(source.path)):
            raise InputError(f"{source.label}: was changed while it was read", "run the command again")
        return Draft("model", workdir, (*reply.names, f"{MODEL}.json"), observed=reply.observed)

    def warnings(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """None: what may be a mistake is refused."""
        return ()

    def notes(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """What was repaired or rewritten of an ONNX file, and what of a module's interface became otherwise."""
        label = "" if inputs.source is None else f"{inputs.source.label}: "
        return tuple(f"{label}{note}" for note in ExportRecord.read(artifact.sidecar).notes)

    def check(self, draft: Draft, inputs: Inputs) -> None:
        record = ExportRecord.read(draft.sidecar)
        if not record.contract.outputs:
            raise StageError(f"{draft.path.name}: the model has no outputs", "export a model that returns something")


def _copy(
    settings: ExportStageSettings, source: OnnxSource, digest: str, workdir: Path, runtime: Settings, progress: Progress
) -> ExportReply:
    """Seal the model, and have a child check it and write it anew, which sees nothing but the private copy."""
    with tempfile.TemporaryDirectory(prefix="sealed-", dir=workdir) as folder:
        load_backend("onnxruntime").prestart(runtime)
        sealed = seal_model(source.path, Path(folder), digest, repairable=True)
        return call_forked(
            "trtpipe.exporter.onnx_import:copy_checked",
            OnnxRequest(source=str(sealed), workdir=str(workdir), label=source.label, settings=settings),
            ExportReply,
            limits=limits_for(runtime, work=LIGHT, size=folder_size(Path(folder))),
            progress=progress,
            what=f"checking {source.label}",
            workdir=workdir,
            reads=(),
        )


def _with_preprocessing(
    settings: ExportStageSettings,
    folded: FoldedPreprocessing,
    exported: ExportReply,
    workdir: Path,
    runtime: Settings,
    progress: Progress,
) -> ExportReply:
    """Have a child write the preprocessing of images in front of the model that was exported."""
    load_backend("onnxruntime").prestart(runtime)
    reply = call_forked(
        "trtpipe.exporter.image_preprocessing:fold",
        FoldRequest(workdir=str(workdir), preprocessing=folded, shapes=settings.shapes),
        ExportReply,
        limits=limits_for(runtime, work=LIGHT, size=folder_size(workdir)),
        progress=progress,
        what="writing the preprocessing into the model",
        workdir=workdir,
        reads=(),
    )
    return reply.model_copy(update={"observed": exported.observed})


def export_torch(
    source: Source | None, request: TorchRequest, exporters: tuple[str, str], runtime: Settings, progress: Progress
) -> ExportReply:
    """Export a PyTorch source in a child process; a module in hand is exported here, because it lives here.

    Args:
        exporters: ``package.module:function`` for a module in hand, and of the task for a child.
    """
    here, task = exporters
    if isinstance(source, ModuleSource):
        reply: ExportReply = load_name(here)(source.module, source.example_inputs, request)
        return reply
    if not isinstance(source, FactorySource | Pt2Source):
        raise InternalError("an export was asked to run without a source")
    data = source.data if isinstance(source, FactorySource) else None
    request = request.model_copy(update={"module": source.module, "function": source.function, "data": data})
    return call_on(source, task, request, runtime, progress, "exporting", Path(request.workdir))


def torch_request(program: TorchExportSettings, opset: int, workdir: Path) -> TorchRequest:
    """What an exporter needs to know of anything but the source; ``opset`` is that of the ONNX model."""
    return TorchRequest(
        module="",
        function="",
        workdir=str(workdir),
        opset=opset,
        shapes={name: (r.min, r.opt, r.max) for name, r in program.shapes.items()},
        input_names=program.input_names,
        output_names=program.output_names,
    )
