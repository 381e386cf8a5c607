"""compile: ``lowered.onnx``, or PyTorch's ``program.pt2``, -> ``<target>.plan``, one engine per target."""

from __future__ import annotations

import shutil
from contextlib import closing
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
from trtpipe.isolation.thread_pool import Task, run_tasks
from trtpipe.isolation.worker import affordable
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
    ) -> Draft:
        if not settings.target:
            raise InternalError("compile was asked to run without a target")
        target = find_target(settings.target)
        plan = workdir / f"{target}.plan"
        record = _built(settings, inputs, (target,), plan, runtime, progress)
        _tell(record, settings, plan.name, progress)
        return _draft(record, plan)

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
        """Build one plan for all of ``settings.together``; each gets a file of its own with the same bytes.

        Where a plan of its own has fewer kernels or less activation memory for one of them, all get their own.
        """
        targets, shared = tuple(map(find_target, settings.together)), workdir / "shared.plan"
        shared_record = _built(settings, inputs, targets, shared, runtime, progress)
        own = _own_plans(settings, inputs, targets, workdir, runtime, progress)
        better = [str(target) for target, (record, _) in own.items() if _is_better(record, shared_record)]
        if better:
            progress.note(
                f"no plan for all targets: one of its own has fewer kernels or less activation memory for "
                f"{', '.join(better)}"
            )
        else:
            _tell(shared_record, settings, ", ".join(map(str, targets)), progress)
        drafts = []
        for target in targets:
            plan = workdir / f"{target}.plan"
            record, path = own[target] if better else (shared_record.model_copy(update={"target": target.name}), shared)
            shutil.copyfile(path, plan)
            if better:
                _tell(record, settings, plan.name, progress)
            drafts.append(_draft(record, plan))
        shared.unlink()
        for _, path in own.values():
            shutil.rmtree(path.parent)
        return tuple(drafts)

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """The engine is not empty, and has the graph's inputs and outputs; in what it computes, the verdict says."""
        record = EngineRecord.read(draft.sidecar)
        if not draft.path.is_file() or not draft.path.stat().st_size:
            raise StageError(f"{draft.path.name} is missing or empty", "report this as a bug of the builder")
        contract = _contract(inputs)
        for side, wanted, found in (
            ("input", contract.inputs, record.io.inputs),
            ("output", contract.outputs, record.io.outputs),
        ):
            if [spec.name for spec in wanted] != [spec.name for spec in found]:
                raise StageError(
                    f"{draft.path.name}: {side}s are {[spec.name for spec in found]}, "
                    f"the graph has {[spec.name for spec in wanted]}",
                    f"remove {side}s that nothing uses from the model",
                )


def _agreements(record: EngineRecord, inputs: Inputs) -> tuple[Agreement, ...]:
    """The lowering record against the engine; nothing where the builder says nothing, or the graph is the user's."""
    lowered = inputs.artifacts.get("lowered")
    if lowered is None or record.report is None or not lowered.described:
        return ()
    return compare(LowerRecord.read(lowered.sidecar).nodes, record.report)


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
        The builder's record, completed with digests and notes.
    """
    backend = load_backend(settings.backend)
    build = asked_of_builder(settings.build, inputs.plugins, runtime)
    profile = DeploymentProfile(precision=settings.precision, shapes=settings.shapes, build=build)
    model = inputs.path(backend.consumes)
    check_shapes(_contract(inputs), profile.shapes)
    for target in targets:
        if refusal := backend.refuses(model, profile, target):
            raise BuildError(f"{target}: {refusal.reason}", refusal.remedy)
    record = backend.build(EngineRequest(model, profile, tuple(targets), plan, runtime), progress)
    built_from = {label: artifact.digest for label, artifact in inputs.artifacts.items()}
    digests = {"plan": sha256_file(plan), **built_from} if plan.is_file() else {}
    notes = [*record.notes, *(agreement.note for agreement in _agreements(record, inputs) if agreement.raised)]
    if record.report is not None and record.report.separate:
        notes.append(f"Q/DQ that became kernels of their own: {', '.join(record.report.separate)}")
    options = settings.build.model_copy(update={"plugins": tuple(path.name for path in inputs.plugins)})
    return record.model_copy(update={"notes": tuple(notes), "options": options, "digests": digests})


def _own_plans(
    settings: CompileSettings,
    inputs: Inputs,
    targets: Sequence[Target],
    workdir: Path,
    runtime: Settings,
    progress: Progress,
) -> dict[Target, tuple[EngineRecord, Path]]:
    """A plan of its own for every target, to compare with that for all; none where reports are no quick matter.

    Raises:
        TrtpipeError: one of them cannot be built.
    """
    if not load_backend(settings.backend).quick_reports:
        return {}

    def task(target: Target) -> Task[tuple[EngineRecord, Path]]:
        def work(listener: Progress) -> tuple[EngineRecord, Path]:
            plan = workdir / f"own-{target}" / f"{target}.plan"
            plan.parent.mkdir()
            return _built(settings, inputs, (target,), plan, runtime, listener), plan

        return Task(str(target), work)

    size = sum(artifact.size for artifact in inputs.artifacts.values())
    found = {}
    tasks = [task(target) for target in targets]
    with closing(run_tasks(tasks, affordable(len(tasks), size, runtime.jobs), progress)) as outcomes:
        for outcome in outcomes:
            if outcome.result is None:
                raise outcome.error or InternalError("an engine build made nothing")
            found[targets[outcome.index]] = outcome.result
    return found


def _is_better(own: EngineRecord, shared: EngineRecord) -> bool:
    """Whether a target's own plan has fewer kernels or less activation memory, by the builder's reports."""
    if own.report is None or shared.report is None:
        return False
    memory = own.activation_bytes is not None and shared.activation_bytes is not None
    return len(own.report.kernels) < len(shared.report.kernels) or (
        memory and (own.activation_bytes or 0) < (shared.activation_bytes or 0)
    )


def _tell(record: EngineRecord, settings: CompileSettings, name: str, progress: Progress) -> None:
    for warning in record.warnings:
        progress.note(f"{settings.backend}: {warning}")
    for note in record.notes:
        progress.note(f"{name}: {note}")


def _draft(record: EngineRecord, plan: Path) -> Draft:
    record.write(plan.with_name(f"{plan.name}.json"))
    return Draft("engine", plan.parent, (plan.name, f"{plan.name}.json"), target=record.target)
