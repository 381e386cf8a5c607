"""compile: ``lowered.onnx``, or PyTorch's ``program.pt2``, -> ``<target>.plan``, one engine per target."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import EngineRequest, load_backend
from trtpipe.config.build_request import NotNeeded
from trtpipe.config.formats import FULL_PRECISION
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.shapes import check_shapes
from trtpipe.config.stage_settings import CompileSettings, asked_of_builder, builder_options
from trtpipe.config.target import find_target
from trtpipe.digest import sha256_file
from trtpipe.engine.agreement import departures
from trtpipe.engine.record import EngineRecord, ProgramRecord
from trtpipe.errors import BuildError, InternalError, OutOfMemory, OutOfTime, StageError
from trtpipe.isolation.thread_pool import Task, run_tasks
from trtpipe.isolation.worker import affordable
from trtpipe.report.stage_records import LowerRecord
from trtpipe.stages.stage import PLUGINS, Noting, Shareable, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trtpipe.artifact import Artifact, IOContract
    from trtpipe.config.build_request import BuildRequest
    from trtpipe.config.settings import Settings
    from trtpipe.config.target import Target
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

#: Folders of plans of which some are kept.
_SCRATCH = "plan-"


class Compile(Stage[CompileSettings], Shareable[CompileSettings], Noting):
    """Asks a back-end for an engine. Plain plan bytes; what is known of it goes into the sidecar."""

    name = "compile"
    produces = "engine"
    version = 8
    packages = ()

    def settings(self, request: BuildRequest) -> CompileSettings | NotNeeded:
        profile = request.profile
        if request.handed_over and not request.targets:
            return NotNeeded(reason=f"handed over: {', '.join(target.name for target in request.handed_over)}")
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
        """Build as few plans for ``settings.together`` as possible; each target gets a file of its own.

        Targets share a plan only where a plan of its own has neither fewer kernels nor less activation memory for any
        of them. What cannot be built for a target leaves the others as they are, and has no draft.
        """
        sharing = _Sharing(settings, inputs, workdir, runtime, progress)
        plans = sharing.plans(tuple(map(find_target, settings.together)))
        drafts = {}
        for made in plans:
            for target in made.targets:
                plan = workdir / f"{target}.plan"
                shutil.copyfile(made.path, plan)
                drafts[target.name] = _draft(made.record.model_copy(update={"target": target.name}), plan)
        for folder in workdir.glob(f"{_SCRATCH}*"):
            shutil.rmtree(folder)
        return tuple(drafts[name] for name in settings.together if name in drafts)

    def warnings(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """None: builders warn of what few users can change."""
        return ()

    def notes(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """The builder's warnings, and how the engine differs from the lowered graph."""
        record = EngineRecord.read(artifact.sidecar)
        return (*(f"{record.flavor}: {warning}" for warning in record.warnings), *record.notes)

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


def _departures(record: EngineRecord, inputs: Inputs) -> tuple[str, ...]:
    """The lowering record against the engine; nothing where the builder says nothing, or the graph is the user's."""
    lowered = inputs.artifacts.get("lowered")
    if lowered is None or record.report is None or not lowered.described:
        return ()
    return departures(LowerRecord.read(lowered.sidecar).nodes, record.report)


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
    notes = [*record.notes, *_departures(record, inputs)]
    if record.report is not None and record.report.separate:
        notes.append(f"Q/DQ that became kernels of their own: {', '.join(record.report.separate)}")
    options = settings.build.model_copy(update={"plugins": tuple(path.name for path in inputs.plugins)})
    return record.model_copy(update={"notes": tuple(notes), "options": options, "digests": digests})


@dataclass(frozen=True)
class _Plan:
    """A plan, and the targets that it is for."""

    targets: tuple[Target, ...]
    record: EngineRecord
    path: Path


@dataclass(frozen=True)
class _Sharing:
    """Which of several targets get one plan."""

    settings: CompileSettings
    inputs: Inputs
    workdir: Path
    runtime: Settings
    progress: Progress

    def plans(self, targets: tuple[Target, ...]) -> tuple[_Plan, ...]:
        """One for all of them if that is no worse for any; else the same for parts of them; at last their own. Where
        reports are no quick matter, one for all.

        Raises:
            TrtpipeError: it, or all of them, cannot be built.
        """
        if not load_backend(self.settings.backend).quick_reports:
            return (self._build(targets, self.progress),)
        own = self._own(targets)
        found, groups = [], [tuple(own)]
        while groups:
            group = groups.pop()
            plan = own[group[0]] if len(group) == 1 else self._shared({target: own[target] for target in group})
            if plan is None:
                groups += _parts({target: own[target].record for target in group})
            else:
                found.append(plan)
        return tuple(found)

    def _own(self, targets: Sequence[Target]) -> dict[Target, _Plan]:
        """A plan of its own for every target that one can be built for."""

        def task(target: Target) -> Task[_Plan]:
            return Task(str(target), lambda listener: self._build((target,), listener))

        size = sum(artifact.size for artifact in self.inputs.artifacts.values())
        tasks = [task(target) for target in targets]
        found, errors = {}, []
        with closing(run_tasks(tasks, affordable(len(tasks), size, self.runtime.jobs), self.progress)) as outcomes:
            for outcome in outcomes:
                if outcome.result is not None:
                    found[targets[outcome.index]] = outcome.result
                elif isinstance(outcome.error, StageError) and not isinstance(outcome.error, (OutOfTime, OutOfMemory)):
                    errors.append(outcome.error)
                else:
                    raise outcome.error or InternalError("an engine build made nothing")
        if not found:
            raise errors[0]
        return {target: found[target] for target in targets if target in found}

    def _shared(self, own: Mapping[Target, _Plan]) -> _Plan | None:
        """One plan for several targets; ``None`` if it cannot be built, or is worse for one of them than its own."""
        names = ", ".join(map(str, own))
        try:
            made = self._build(tuple(own), self.progress)
        except (OutOfTime, OutOfMemory):
            raise
        except StageError as error:
            self.progress.note(f"no plan for {names} together: {error.message}")
            return None
        if better := [str(target) for target, alone in own.items() if _is_better(alone.record, made.record)]:
            self.progress.note(
                f"no plan for {names} together: one of its own has fewer kernels or less activation memory for "
                f"{', '.join(better)}"
            )
            return None
        return made

    def _build(self, targets: tuple[Target, ...], progress: Progress) -> _Plan:
        folder = self.workdir / f"{_SCRATCH}{'-'.join(map(str, targets))}"
        folder.mkdir()
        plan = folder / "engine.plan"
        return _Plan(targets, _built(self.settings, self.inputs, targets, plan, self.runtime, progress), plan)


def _parts(own: Mapping[Target, EngineRecord]) -> list[tuple[Target, ...]]:
    """Targets whose own plans have as many kernels and as much activation memory, which a plan for all of them must not
    exceed; where that is all of them, two halves by compute capability.
    """
    alike: dict[tuple[int | None, int | None], list[Target]] = {}
    for target, record in own.items():
        kernels = None if record.report is None else len(record.report.kernels)
        alike.setdefault((kernels, record.activation_bytes), []).append(target)
    if len(alike) > 1:
        return [tuple(group) for group in alike.values()]
    ordered = sorted(own, key=lambda target: target.capability)
    middle = (len(ordered) + 1) // 2
    return [tuple(ordered[:middle]), tuple(ordered[middle:])]


def _is_better(own: EngineRecord, shared: EngineRecord) -> bool:
    """Whether a target's own plan has fewer kernels or less activation memory, by the builder's reports."""
    if own.report is None or shared.report is None:
        return False
    memory = own.activation_bytes is not None and shared.activation_bytes is not None
    return len(own.report.kernels) < len(shared.report.kernels) or (
        memory and (own.activation_bytes or 0) < (shared.activation_bytes or 0)
    )


def _draft(record: EngineRecord, plan: Path) -> Draft:
    record.write(plan.with_name(f"{plan.name}.json"))
    return Draft("engine", plan.parent, (plan.name, f"{plan.name}.json"), target=record.target)
