"""compile: ``lowered.onnx``, or PyTorch's ``program.pt2``, -> ``<target>.plan``, one engine per target."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import EngineRequest, load_backend
from trtpipe.config.formats import FULL_PRECISION
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.shapes import check_shapes
from trtpipe.config.stage_settings import CompileSettings, asked_of_builder, builder_options
from trtpipe.config.target import find_target
from trtpipe.digest import sha256_file
from trtpipe.engine.agreement import Agreement, compare
from trtpipe.engine.record import EngineRecord, ProgramRecord
from trtpipe.errors import BuildError, InternalError, StageError
from trtpipe.report.stage_records import LowerRecord
from trtpipe.stages.stage import PLUGINS, Shareable, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtpipe.artifact import IOContract
    from trtpipe.config.settings import Settings
    from trtpipe.config.stage_settings import BuildRequest
    from trtpipe.config.target import Target
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs


class Compile(Stage[CompileSettings], Shareable[CompileSettings]):
    """Asks a back-end for an engine. Plain plan bytes; what is known of it goes into the sidecar."""

    name = "compile"
    produces = "engine"
    version = 6
    packages = ()

    def settings(self, request: BuildRequest) -> CompileSettings:
        profile = request.profile
        program = load_backend(request.backend).consumes == "program"
        return CompileSettings(
            backend=request.backend,
            target="" if request.target is None else request.target.name,
            together=tuple(target.name for target in request.together),
            precision=profile.precision if program else FULL_PRECISION,
            shapes=profile.shapes,
            build=builder_options(profile.build),
        )

    def consumes(self, settings: CompileSettings) -> tuple[str, ...]:
        return (load_backend(settings.backend).consumes, PLUGINS)

    def fingerprint(self, settings: CompileSettings, runtime: Settings) -> dict[str, str]:
        return load_backend(settings.backend).fingerprint(runtime)

    def run(
        self, settings: CompileSettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> tuple[Draft, tuple[Path, ...]]:
        if not settings.target:
            raise InternalError("compile was asked to run without a target")
        target = find_target(settings.target)
        plan = workdir / f"{target}.plan"
        return _draft(_built(settings, inputs, (target,), plan, runtime, progress), plan), ()

    def together(self, request: BuildRequest) -> tuple[Target, ...]:
        """The targets that may share a plan, by the back-end's rules and the profile's wish; none it refuses anyway."""
        backend, profile = load_backend(request.backend), request.profile
        if not profile.build.shared_plan:
            return ()
        able = [
            target
            for target in request.targets
            if target.computes(profile.precision) and backend.refuses(None, profile, target) is None
        ]
        return backend.shareable(able)

    def run_together(
        self, settings: CompileSettings, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> tuple[Draft, ...]:
        """Build one plan for all of ``settings.together``: each gets a file of its own with the same bytes."""
        targets, plan = tuple(map(find_target, settings.together)), workdir / "shared.plan"
        facts = _built(settings, inputs, targets, plan, runtime, progress)
        drafts = []
        for target in targets:
            own = workdir / f"{target}.plan"
            shutil.copyfile(plan, own)
            drafts.append(_draft(facts.model_copy(update={"target": target.name}), own))
        plan.unlink()
        return tuple(drafts)

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """The engine is not empty, has the graph's inputs and outputs, and computes in the lowered precision."""
        facts = EngineRecord.read(draft.sidecar)
        if not draft.path.is_file() or not draft.path.stat().st_size:
            raise StageError(f"{draft.path.name} is missing or empty", "report this as a bug of the builder")
        contract = _contract(inputs)
        for side, wanted, found in (
            ("input", contract.inputs, facts.io.inputs),
            ("output", contract.outputs, facts.io.outputs),
        ):
            if [spec.name for spec in wanted] != [spec.name for spec in found]:
                raise StageError(
                    f"{draft.path.name}: {side}s are {[spec.name for spec in found]}, "
                    f"the graph has {[spec.name for spec in wanted]}",
                    f"remove {side}s that nothing uses from the model",
                )
        for agreement in _agreements(facts, inputs):
            if agreement.lost:  # an engine in float32 must not pass for the one asked for
                raise StageError(
                    f"{draft.path.name}: {agreement.note}",
                    "report this with the model; the builder undid the lowering",
                )


def _agreements(facts: EngineRecord, inputs: Inputs) -> tuple[Agreement, ...]:
    """The lowering record against the engine; nothing where the builder says nothing, or the graph is the user's."""
    lowered = inputs.artifacts.get("lowered")
    if lowered is None or facts.report is None or not lowered.described:
        return ()
    return compare(LowerRecord.read(lowered.sidecar).nodes, facts.report)


def _contract(inputs: Inputs) -> IOContract:
    """The inputs and outputs of what is compiled."""
    if "program" in inputs.artifacts:
        return ProgramRecord.read(inputs.artifacts["program"].sidecar).contract
    from trtpipe.preflight.onnx_io import read_contract

    return read_contract(inputs.path("lowered"))


def _built(
    settings: CompileSettings,
    inputs: Inputs,
    targets: Sequence[Target],
    plan: Path,
    runtime: Settings,
    progress: Progress,
) -> EngineRecord:
    """Build, once the shapes fit the profile and the back-end refuses none of ``targets``.

    Returns:
        The builder's record, completed with digests and notes, which are also reported.
    """
    backend = load_backend(settings.backend)
    build = asked_of_builder(settings.build, inputs.plugins, runtime)
    profile = DeploymentProfile(precision=settings.precision, shapes=settings.shapes, build=build)
    model = inputs.path(backend.consumes)
    check_shapes(_contract(inputs), profile.shapes)
    for target in targets:
        if refusal := backend.refuses(model, profile, target):
            raise BuildError(f"{target}: {refusal.reason}", refusal.remedy)
    facts = backend.build(EngineRequest(model, profile, tuple(targets), plan, runtime), progress)
    built_from = {label: artifact.digest for label, artifact in inputs.artifacts.items()}
    digests = {"plan": sha256_file(plan), **built_from} if plan.is_file() else {}
    notes = [*facts.notes, *(agreement.note for agreement in _agreements(facts, inputs) if agreement.raised)]
    if facts.report is not None and facts.report.separate:
        notes.append(f"Q/DQ that became kernels of their own: {', '.join(facts.report.separate)}")
    options = settings.build.model_copy(update={"plugins": tuple(path.name for path in inputs.plugins)})
    facts = facts.model_copy(update={"notes": tuple(notes), "options": options, "digests": digests})
    for warning in facts.warnings:
        progress.note(f"{settings.backend}: {warning}")
    name = plan.name if len(targets) < 2 else ", ".join(map(str, targets))
    for note in facts.notes:
        progress.note(f"{name}: {note}")
    return facts


def _draft(facts: EngineRecord, plan: Path) -> Draft:
    facts.write(plan.with_name(f"{plan.name}.json"))
    return Draft("engine", plan.parent, (plan.name, f"{plan.name}.json"), target=facts.target)
