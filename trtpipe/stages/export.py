"""export: any source -> ``model.onnx``, self-contained and checked."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.config.source import FactorySource, ModuleSource, OnnxSource, Pt2Source, sha256_of_pt2
from trtpipe.config.stage_settings import ExportStageSettings, TorchExportSettings
from trtpipe.errors import InputError, InternalError, StageError
from trtpipe.exporter.request import MODEL, ExportReply, OnnxRequest, TorchRequest
from trtpipe.isolation.remote_runner import call_forked
from trtpipe.isolation.worker import LIGHT, call, limits_for
from trtpipe.preflight import folder_size, seal_model
from trtpipe.report.stage_records import ExportRecord
from trtpipe.stages.stage import SOURCE, Stage

if TYPE_CHECKING:
    from trtpipe.config.settings import Settings
    from trtpipe.config.stage_settings import BuildRequest
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs


class Export(Stage[ExportStageSettings]):
    """Turns the source into one checked ONNX model."""

    name = "export"
    produces = "model"
    version = 2
    packages = ("torch", "onnx", "onnxscript", "onnx-ir")

    def settings(self, request: BuildRequest) -> ExportStageSettings:
        """What the PyTorch export depends on; an ONNX file is taken as it is."""
        if isinstance(request.source, OnnxSource):
            return ExportStageSettings(opset=None, program=None)
        return ExportStageSettings(opset=request.profile.export.opset, program=TorchExportSettings.of(request.profile))

    def consumes(self, settings: ExportStageSettings) -> tuple[str, ...]:
        """The source alone."""
        return (SOURCE,)

    def fingerprint(self, settings: ExportStageSettings, runtime: Settings) -> dict[str, str]:
        """No back-end."""
        return {}

    def run(
        self, settings: ExportStageSettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> tuple[Draft, tuple[Path, ...]]:
        """Export in a child process; a module in hand is exported here, because it lives here."""
        source = inputs.source
        if isinstance(source, OnnxSource):
            reply = _copy(source, inputs.source_digest, workdir, runtime, progress)
        elif settings.opset is None or settings.program is None:
            raise InternalError("export was asked to run without a source")
        elif isinstance(source, ModuleSource):
            from trtpipe.exporter.torch_export import export_module

            request = torch_request(settings.program, settings.opset, workdir)
            reply = export_module(source.module, source.example_inputs, request)
        elif isinstance(source, FactorySource | Pt2Source):
            reply = call(
                "trtpipe.exporter.torch_export:export_program",
                torch_request(settings.program, settings.opset, workdir, source),
                ExportReply,
                limits=limits_for(runtime),
                progress=progress,
                what=f"exporting {source.label}",
                workdir=workdir,
                reads=(source.path,) if isinstance(source, Pt2Source) else None,  # a factory is the user's own code
            )
        else:
            raise InternalError("export was asked to run without a source")
        changed = isinstance(source, Pt2Source) and inputs.source_digest not in ("", sha256_of_pt2(source.path))
        if changed:
            raise InputError(f"{source.label}: was changed while it was read", "run the command again")
        return Draft("model", workdir, (*reply.names, f"{MODEL}.json"), observed=reply.observed), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """Every output of the ONNX model agrees with PyTorch's."""
        facts = ExportRecord.read(draft.sidecar)
        if not facts.contract.outputs:
            raise StageError(f"{draft.path.name}: the model has no outputs", "export a model that returns something")


def _copy(source: OnnxSource, digest: str, workdir: Path, runtime: Settings, progress: Progress) -> ExportReply:
    """Seal the model, and have a child check it and write it anew, which sees nothing but the private copy."""
    with tempfile.TemporaryDirectory(prefix="sealed-", dir=workdir) as folder:
        load_backend("onnxruntime").prestart(runtime)
        sealed = seal_model(source.path, Path(folder), digest)
        return call_forked(
            "trtpipe.exporter.onnx_import:copy_checked",
            OnnxRequest(source=str(sealed), workdir=str(workdir), label=source.label),
            ExportReply,
            limits=limits_for(runtime, work=LIGHT, size=folder_size(Path(folder))),
            progress=progress,
            what=f"checking {source.label}",
            workdir=workdir,
            reads=(),
        )


def torch_request(
    program: TorchExportSettings, opset: int, workdir: Path, source: FactorySource | Pt2Source | None = None
) -> TorchRequest:
    """What an exporter needs to know.

    Args:
        opset: of the ONNX model.
        source: what a child process loads; ``None`` for a module in hand.
    """
    module = "" if source is None else source.module if isinstance(source, FactorySource) else str(source.path)
    return TorchRequest(
        module=module,
        function=source.function if isinstance(source, FactorySource) else "",
        workdir=str(workdir),
        opset=opset,
        shapes={name: (r.min, r.opt, r.max) for name, r in program.shapes.items()},
        input_names=program.input_names,
        output_names=program.output_names,
    )
