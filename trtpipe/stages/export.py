"""export: any source -> ``model.onnx``, self-contained and checked."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.config.source import FactorySource, ModuleSource, OnnxSource, Pt2Source, sha256_of_pt2
from trtpipe.errors import InputError, InternalError, StageError
from trtpipe.exporter.request import MODEL, ExportReply, OnnxRequest, TorchRequest
from trtpipe.isolation.remote_runner import call_forked
from trtpipe.isolation.worker import LIGHT, call, limits_for
from trtpipe.preflight import folder_size, seal_model
from trtpipe.report.stage_records import ExportRecord

if TYPE_CHECKING:
    from trtpipe.config.job import Job
    from trtpipe.config.profile import ShapeRange
    from trtpipe.digest import JSON
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs


class Export:
    """Turns the source into one checked ONNX model."""

    name = "export"
    produces = "model"
    version = 2
    packages = ("torch", "onnx", "onnxscript", "onnx-ir")

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The source alone."""
        return ("source",)

    def skip(self, job: Job) -> str | None:
        """Never."""
        return None

    def key(self, job: Job) -> JSON:
        """What the PyTorch export depends on; an ONNX file is taken as it is."""
        if isinstance(job.source, OnnxSource):
            return {}
        export = job.profile.export
        return {"export": export.to_dict(), "shapes": {n: r.to_dict() for n, r in joined_ranges(job).items()}}

    def fingerprint(self, job: Job) -> dict[str, str]:
        """No back-end."""
        return {}

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Export in a child process; a module in hand is exported here, because it lives here."""
        source = job.source
        if isinstance(source, ModuleSource):
            from trtpipe.exporter.torch_export import export_module

            reply = export_module(source.module, source.example_inputs, torch_request(job, "", "", workdir))
        elif isinstance(source, OnnxSource):
            reply = _copy(job, source, inputs.source, workdir, progress)
        elif isinstance(source, FactorySource | Pt2Source):
            module, function = (
                (source.module, source.function) if isinstance(source, FactorySource) else (str(source.path), "")
            )
            reply = call(
                "trtpipe.exporter.torch_export:export_program",
                torch_request(job, module, function, workdir),
                ExportReply,
                limits=limits_for(job.settings),
                progress=progress,
                what=f"exporting {source.label}",
                workdir=workdir,
                reads=(source.path,) if isinstance(source, Pt2Source) else None,  # a factory is the user's own code
            )
        else:
            raise InternalError("export was asked to run without a source")
        if isinstance(source, Pt2Source) and inputs.source and sha256_of_pt2(source.path) != inputs.source:
            raise InputError(f"{source.label}: was changed while it was read", "run the command again")
        draft = Draft("model", workdir, (*reply.names, f"{MODEL}.json"))
        return draft, tuple(Path(path) for path in reply.files_read)

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """Every output of the ONNX model agrees with PyTorch's."""
        facts = ExportRecord.read(draft.sidecar)
        if not facts.contract.outputs:
            raise StageError(f"{draft.path.name}: the model has no outputs", "export a model that returns something")


def _copy(job: Job, source: OnnxSource, digest: str, workdir: Path, progress: Progress) -> ExportReply:
    """Seal the model, and have a child check it and write it anew, which sees nothing but the private copy."""
    with tempfile.TemporaryDirectory(prefix="sealed-", dir=workdir) as folder:
        sealed = seal_model(source.path, Path(folder), digest)
        return call_forked(
            "trtpipe.exporter.onnx_import:copy_checked",
            OnnxRequest(source=str(sealed), workdir=str(workdir), label=source.label),
            ExportReply,
            limits=limits_for(job.settings, work=LIGHT, size=folder_size(Path(folder))),
            progress=progress,
            what=f"checking {source.label}",
            workdir=workdir,
            reads=(),
        )


def joined_ranges(job: Job) -> dict[str, ShapeRange]:
    """Every input's range over all optimization profiles: the program has to admit each of them."""
    found: dict[str, ShapeRange] = {}
    for name, shape in (pair for profile in job.profile.shapes for pair in profile.items()):
        found[name] = found[name].joined(shape) if name in found else shape
    return dict(sorted(found.items()))


def torch_request(job: Job, module: str, function: str, workdir: Path) -> TorchRequest:
    """What a child needs to know to export the job's PyTorch source."""
    export = job.profile.export
    return TorchRequest(
        module=module,
        function=function,
        workdir=str(workdir),
        opset=export.opset,
        shapes={name: (r.min, r.opt, r.max) for name, r in joined_ranges(job).items()},
        input_names=export.input_names,
        output_names=export.output_names,
    )
