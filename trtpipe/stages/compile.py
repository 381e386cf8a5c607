"""compile: ``lowered.onnx``, or PyTorch's ``program.pt2``, -> ``<target>.plan``, one engine per target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import EngineFacts, ProgramFacts, load_backend
from trtpipe.engine.agreement import Agreement, compare
from trtpipe.errors import BuildError, InternalError, StageError
from trtpipe.shapes import check_shapes
from trtpipe.stages.facts import LowerFacts

if TYPE_CHECKING:
    from trtpipe.artifact import IOContract
    from trtpipe.digest import JSON
    from trtpipe.job import Inputs, Job
    from trtpipe.progress import Progress
    from trtpipe.target import Target


class Compile:
    """Asks the job's back-end for an engine. Plain plan bytes; what is known of it goes into the sidecar."""

    name = "compile"
    produces = "engine"
    version = 3
    packages = ()

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The lowered graph, or PyTorch's program: what the back-end builds from."""
        return (load_backend(job.backend).consumes,)

    def skip(self, job: Job) -> str | None:
        """Never."""
        return None

    def key(self, job: Job) -> JSON:
        """Shapes and builder options; limits of the child process do not change the bytes."""
        build = job.profile.build.to_dict()
        return {
            "shapes": [{name: shape.to_dict() for name, shape in shapes.items()} for shapes in job.profile.shapes],
            "build": {name: build[name] for name in ("workspace", "opt_level")},
        }

    def fingerprint(self, job: Job) -> dict[str, str]:
        """The back-end's name and versions."""
        return {"name": job.backend, **load_backend(job.backend).fingerprint(job.settings)}

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Check shapes, ask whether the back-end refuses, build."""
        target = _target(job)
        backend = load_backend(job.backend)
        model = inputs.path(backend.consumes)
        check_shapes(_contract(inputs), job.profile.shapes)
        if refusal := backend.refuses(model, job.profile, target):
            raise BuildError(f"{target}: {refusal.reason}", refusal.remedy)
        plan = workdir / f"{target}.plan"
        facts = backend.build(model, job.profile, target, plan, job.settings, progress)
        for warning in facts.warnings:
            progress.note(f"{job.backend}: {warning}")
        facts = facts.model_copy(update={"notes": _notes(facts, inputs)})
        for note in facts.notes:
            progress.note(f"{plan.name}: {note}")
        facts.write(plan.with_name(f"{plan.name}.json"))
        return Draft("engine", workdir, (plan.name, f"{plan.name}.json"), target=target.name), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """The engine is not empty, has the graph's inputs and outputs, and computes in the lowered precision."""
        facts = EngineFacts.read(draft.sidecar)
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


def _contract(inputs: Inputs) -> IOContract:
    """The inputs and outputs of what is compiled."""
    if "program" in inputs.artifacts:
        return ProgramFacts.read(inputs.artifacts["program"].sidecar).contract
    from trtpipe.onnxfile import read_contract

    return read_contract(inputs.path("lowered"))


def _agreements(facts: EngineFacts, inputs: Inputs) -> tuple[Agreement, ...]:
    """The lowering record against the engine; nothing where the builder says nothing, or the graph is the user's."""
    lowered = inputs.artifacts.get("lowered")
    if (
        lowered is None
        or facts.report is None
        or not any(entry.name == lowered.sidecar.name for entry in lowered.files)
    ):
        return ()
    return compare(LowerFacts.read(lowered.sidecar).nodes, facts.report)


def _notes(facts: EngineFacts, inputs: Inputs) -> tuple[str, ...]:
    notes = [agreement.note for agreement in _agreements(facts, inputs) if agreement.raised]
    if facts.report is not None and facts.report.separate:
        notes.append(f"Q/DQ that became kernels of their own: {', '.join(facts.report.separate)}")
    return tuple(notes)


def _target(job: Job) -> Target:
    if job.target is None:
        raise InternalError("compile was asked to run without a target")
    return job.target
