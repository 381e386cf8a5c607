"""bundle: the index of everything -> ``manifest.json``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import trtpipe
from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.config.profile import StoreSettings
from trtpipe.config.stage_settings import BundleSettings, CalibrationQuote
from trtpipe.config.toolchain import versions
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import StageError
from trtpipe.report.manifest import Evaluation, Manifest, ManifestEntry
from trtpipe.report.stage_records import ExportRecord, LowerRecord, SimplifyRecord
from trtpipe.report.verdict import Evidence, verdict_of
from trtpipe.stages.stage import FAILURES, Stage

if TYPE_CHECKING:
    from trtpipe.accuracy.reports import ParityReport
    from trtpipe.artifact import Artifact, IOContract
    from trtpipe.calibration.data_summary import DataSummary
    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.settings import Settings
    from trtpipe.digest import JSON
    from trtpipe.latency.reports import LatencyReport
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

MANIFEST = "manifest.json"
_SEEN = "the evaluation data is the calibration data: measure the metric on samples that calibration has not seen"
_TOOLS = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxsim", "polygraphy", "torch")


class Bundle(Stage[BundleSettings]):
    """Writes the manifest: digests, keys, versions, the verdict."""

    name = "bundle"
    produces = "manifest"
    version = 6
    packages = _TOOLS
    optional = ("reference", "parity", "latency")

    def settings(self, request: BuildRequest) -> BundleSettings:
        profile, recipe, evaluation = request.profile, request.recipe, request.recipe.evaluation
        build = profile.build.model_copy(update={"plugins": tuple(Path(name).name for name in profile.build.plugins)})
        patterns = {"keep": tuple(sorted(set(profile.keep))), "int8_nodes": tuple(sorted(set(profile.int8_nodes)))}
        quote = CalibrationQuote(
            method=recipe.method,
            percentile=recipe.percentile,
            weights=recipe.weights,
            corrections=recipe.corrections,
        )
        return BundleSettings(
            trtpipe=trtpipe.__version__,
            source="" if request.source is None else Path(request.source.label).name,
            backend=request.backend,
            targets=tuple(target.name for target in request.targets),
            handed_over=tuple(target.name for target in request.handed_over),
            profile=profile.model_copy(update={"build": build, "store": StoreSettings(), **patterns}),
            simplify=request.simplify,
            calibration=quote if profile.precision.calibrated else None,
            classes=recipe.classes if evaluation is None else evaluation.classes or recipe.classes,
        )

    def consumes(self, settings: BundleSettings) -> tuple[str, ...]:
        graphs = ("model", "program", "simplified", "statistics", "ranges", "lowered")
        return (*graphs, "engine", *self.optional, FAILURES)

    def fingerprint(self, settings: BundleSettings, runtime: Settings) -> dict[str, str]:
        return load_backend(settings.backend).fingerprint(runtime)

    def run(
        self, settings: BundleSettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> Draft:
        from trtpipe.calibration.ranges import Ranges

        lowered = _lowered(inputs)
        quoted: dict[str, JSON] = {"profile": settings.profile.to_dict(), "simplify": settings.simplify}
        if settings.calibration is not None:
            quoted["calibration"] = settings.calibration.to_dict()
        limit = settings.profile.latency.max_p99
        evidence = Evidence.of(
            inputs.artifacts.values(), inputs.failures, latency_limit=limit, handed_over=settings.handed_over
        )
        parity = evidence.parity
        calibration = Ranges.read(inputs.path("ranges")).data_summary if "ranges" in inputs.artifacts else None
        seen = _seen_before(calibration, parity)
        manifest = Manifest(
            trtpipe=settings.trtpipe,
            source=settings.source,
            precision=settings.profile.precision,
            backend=settings.backend,
            targets=(*settings.targets, *settings.handed_over),
            settings=quoted,
            toolchain=toolchain(settings.backend, runtime),
            calibration=calibration,
            artifacts=tuple(
                ManifestEntry(label=label, digest=artifact.digest, key=inputs.keys.get(label, ""), files=artifact.files)
                for label, artifact in inputs.artifacts.items()
            ),
            verdict=verdict_of(evidence),
            nodes=lowered.nodes if lowered is not None else (),
            work=lowered.work if lowered is not None else None,
            classes=settings.classes if parity is None else parity.classes or settings.classes,
            signature=_signature(inputs),
            evaluation=None if parity is None else _evaluation(parity),
            notes=(*_notes(inputs, parity, evidence.latency), *seen),
        )
        manifest.write(workdir / MANIFEST)
        return Draft("manifest", workdir, (MANIFEST,))

    def warnings(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """That the metric was measured on what calibration has seen."""
        return tuple(note for note in Manifest.read(artifact.path).notes if note == _SEEN)

    def notes(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """None."""
        return ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        listed = {entry.label for entry in Manifest.read(draft.path).artifacts}
        if missing := set(inputs.artifacts) - listed:
            raise StageError(f"{MANIFEST} misses {sorted(missing)}", "report this as a bug")


def toolchain(backend: str, runtime: Settings) -> dict[str, str]:
    """Name -> version of every tool that has a part in a build, and the back-end's device where that matters."""
    return {**versions(_TOOLS), **load_backend(backend).fingerprint(runtime)}


def _lowered(inputs: Inputs) -> LowerRecord | None:
    """The record of the lowering, unless the user brought a lowered graph without one."""
    artifact = inputs.artifacts.get("lowered")
    return None if artifact is None or not artifact.described else LowerRecord.read(artifact.sidecar)


def _signature(inputs: Inputs) -> IOContract | None:
    """Of the exported model; a graph of the user's without a record is asked itself."""
    artifact = inputs.artifacts.get("model")
    if artifact is None:
        return None
    if artifact.described:
        return ExportRecord.read(artifact.sidecar).contract
    from trtpipe.preflight.onnx_io import read_contract

    return read_contract(artifact.path)


def _evaluation(parity: ParityReport) -> Evaluation:
    return Evaluation(
        data=parity.data,
        data_digest=parity.data_digest,
        preprocessing=parity.preprocessing,
        metric=parity.evaluation,
        function_digest=parity.evaluation_digest,
    )


def _seen_before(calibration: DataSummary | None, parity: ParityReport | None) -> tuple[str, ...]:
    """A metric that was measured on the calibration data itself says too much good of the quantized model."""
    if calibration is None or parity is None or not parity.metrics or calibration.digest != parity.data_digest:
        return ()
    brings_its_own = parity.evaluation_digest and not parity.labels_digest  # a function that evaluates by itself
    return () if brings_its_own else (_SEEN,)


def _notes(inputs: Inputs, parity: ParityReport | None, latency: LatencyReport | None) -> tuple[str, ...]:
    notes: list[str] = []
    for label, record in (("model", ExportRecord), ("simplified", SimplifyRecord), ("lowered", LowerRecord)):
        artifact = inputs.artifacts.get(label)
        if artifact is not None and artifact.described:
            found = record.read(artifact.sidecar)
            warnings = () if isinstance(found, ExportRecord) else found.warnings
            notes += [f"{label}: {note}" for note in (*warnings, *found.notes)]
    for engine in inputs.engines():
        if engine.described:
            built = EngineRecord.read(engine.sidecar)
            said = built.notes if built.report is None else (built.report.summary, *built.notes)
            notes += [f"{engine.label}: {note}" for note in said]
    if parity is not None:
        notes += [f"verify: {doubt}" for doubt in parity.doubts]
    if parity is not None and "program" in parity.not_run:  # of engines the stages above tell
        notes.append(f"program: {parity.not_run['program']}")
    if latency is not None:
        notes += [f"latency: {note}" for note in latency.notes]
    return tuple(notes)
