"""compile: ``lowered.onnx``, or PyTorch's ``program.pt2``, -> ``<target>.plan``, one engine per target."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import SharesPlans, load_backend
from trtpipe.config.plugins import plugin_digests
from trtpipe.config.shapes import check_shapes
from trtpipe.digest import sha256_file
from trtpipe.engine.agreement import Agreement, compare
from trtpipe.engine.record import EngineRecord, ProgramRecord
from trtpipe.errors import BuildError, InternalError, StageError
from trtpipe.report.stage_records import LowerRecord

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtpipe.artifact import IOContract
    from trtpipe.config.job import Job
    from trtpipe.config.target import Target
    from trtpipe.digest import JSON
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs

#: Options that decide how a build goes, not what comes out; whether targets share a plan stands in the key by itself.
_NO_BYTES = frozenset({"time_limit", "memory_limit", "shared_plan", "plugins"})


class Compile:
    """Asks the job's back-end for an engine. Plain plan bytes; what is known of it goes into the sidecar."""

    name = "compile"
    produces = "engine"
    version = 5
    packages = ()

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The lowered graph, or PyTorch's program: what the back-end builds from."""
        return (load_backend(job.backend).consumes,)

    def skip(self, job: Job) -> str | None:
        """Never."""
        return None

    def key(self, job: Job) -> JSON:
        """Shapes, builder options with the content of plug-ins, and the targets that share the plan.

        Raises:
            InputError: a plug-in library does not exist.
        """
        options = job.profile.build
        build = {name: value for name, value in options.to_dict().items() if name not in _NO_BYTES}
        return {
            "shapes": [{name: shape.to_dict() for name, shape in shapes.items()} for shapes in job.profile.shapes],
            "build": build | {"plugins": list(plugin_digests(options).values())},
            "together": [target.name for target in job.together],
        }

    def fingerprint(self, job: Job) -> dict[str, str]:
        """The back-end's name and versions."""
        return {"name": job.backend, **load_backend(job.backend).fingerprint(job.settings)}

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Check shapes, ask whether the back-end refuses, build."""
        target = _target(job)
        model = _checked(job, inputs, (target,))
        plan = workdir / f"{target}.plan"
        facts = load_backend(job.backend).build(model, job.profile, target, plan, job.settings, progress)
        facts = _completed(job, facts, plan, plan.name, inputs, progress)
        return _draft(facts, plan), ()

    def together(self, job: Job) -> tuple[Target, ...]:
        """The targets that may share a plan, by the back-end's rules and the profile's wish; none it refuses anyway."""
        backend = load_backend(job.backend)
        if not isinstance(backend, SharesPlans) or not job.profile.build.shared_plan:
            return ()
        able = [
            target
            for target in job.targets
            if target.computes(job.profile.precision) and backend.refuses(None, job.profile, target) is None
        ]
        return backend.shareable(able)

    def run_together(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, ...]:
        """Build one plan for all of ``job.together``: each gets a file of its own with the same bytes."""
        backend = load_backend(job.backend)
        if not isinstance(backend, SharesPlans):
            raise InternalError(f"back-end {job.backend!r} was asked to share a plan")
        model = _checked(job, inputs, job.together)
        plan = workdir / "shared.plan"
        facts = backend.build_shared(model, job.profile, job.together, plan, job.settings, progress)
        facts = _completed(job, facts, plan, ", ".join(map(str, job.together)), inputs, progress)
        drafts = []
        for target in job.together:
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
    if lowered is None or facts.report is None or all(entry.name != lowered.sidecar.name for entry in lowered.files):
        return ()
    return compare(LowerRecord.read(lowered.sidecar).nodes, facts.report)


def _contract(inputs: Inputs) -> IOContract:
    """The inputs and outputs of what is compiled."""
    if "program" in inputs.artifacts:
        return ProgramRecord.read(inputs.artifacts["program"].sidecar).contract
    from trtpipe.preflight.onnx_io import read_contract

    return read_contract(inputs.path("lowered"))


def _checked(job: Job, inputs: Inputs, targets: Sequence[Target]) -> Path:
    """What is compiled, once its shapes fit the profile and the back-end refuses none of ``targets``."""
    backend = load_backend(job.backend)
    model = inputs.path(backend.consumes)
    check_shapes(_contract(inputs), job.profile.shapes)
    for target in targets:
        if refusal := backend.refuses(model, job.profile, target):
            raise BuildError(f"{target}: {refusal.reason}", refusal.remedy)
    return model


def _completed(
    job: Job, facts: EngineRecord, plan: Path, name: str, inputs: Inputs, progress: Progress
) -> EngineRecord:
    """The facts with all that is worth knowing of the engine, which is also told."""
    built_from = {label: artifact.digest for label, artifact in inputs.artifacts.items()}
    digests = {"plan": sha256_file(plan), **built_from} if plan.is_file() else {}
    notes = (*facts.notes, *_notes(facts, inputs))
    facts = facts.model_copy(update={"notes": notes, "options": job.profile.build, "digests": digests})
    for warning in facts.warnings:
        progress.note(f"{job.backend}: {warning}")
    for note in facts.notes:
        progress.note(f"{name}: {note}")
    return facts


def _draft(facts: EngineRecord, plan: Path) -> Draft:
    facts.write(plan.with_name(f"{plan.name}.json"))
    return Draft("engine", plan.parent, (plan.name, f"{plan.name}.json"), target=facts.target)


def _notes(facts: EngineRecord, inputs: Inputs) -> tuple[str, ...]:
    notes = [agreement.note for agreement in _agreements(facts, inputs) if agreement.raised]
    if facts.report is not None and facts.report.separate:
        notes.append(f"Q/DQ that became kernels of their own: {', '.join(facts.report.separate)}")
    return tuple(notes)


def _target(job: Job) -> Target:
    if job.target is None:
        raise InternalError("compile was asked to run without a target")
    return job.target
