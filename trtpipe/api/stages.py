"""The public functions: one for the whole pipeline, one for each stage; the command line calls nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.api.inspection import Inspection, inspect
from trtpipe.api.results import GRAPH, JSON, PLAN, BuildResult, rejected_beside, run_published, run_stage, run_stages
from trtpipe.backends.base import Refusal, load_backend
from trtpipe.backends.choice import choose_backend, default_targets
from trtpipe.backends.compatibility import obstacles
from trtpipe.config.job import Job
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.recipe import CalibrationRecipe
from trtpipe.config.settings import Settings
from trtpipe.config.source import ModuleSource, Source, parse_source
from trtpipe.config.target import Target, find_target
from trtpipe.errors import BuildError, HostError, InputError
from trtpipe.pipeline.pipeline import Step, opened, stages_for
from trtpipe.pipeline.publish import check_writable, publish_folder
from trtpipe.progress import NullProgress, Progress

if TYPE_CHECKING:
    from trtpipe.config.target import Target

SourceLike: TypeAlias = "str | Path | tuple[object, tuple[object, ...]]"


def make_job(
    source: SourceLike | None = None,
    *,
    profile: DeploymentProfile | None = None,
    recipe: CalibrationRecipe | None = None,
    settings: Settings | None = None,
    simplify: bool = True,
    allow_random: bool = False,
    progress: Progress | None = None,
    engines: bool = True,
) -> Job:
    """Resolve what a user asked for: the source, the back-end, the targets.

    Args:
        source: ``model.onnx``, ``model.pt2``, ``path/file.py:factory``, ``package.module:factory``, or
            ``(module, example_inputs)`` with an ``nn.Module``.
        profile: what to build (default: fp32, for every target the back-end has by default).
        recipe: which data, and how ranges are found (default: no data).
        settings: cache folder and limits (default: from the environment).
        simplify: whether onnxsim may rewrite the graph.
        allow_random: whether calibration may use seeded random data where none is given.
        progress: told which back-end and targets were chosen and why.
        engines: whether engines will be built or run; without, no back-end has to be installed.

    Raises:
        InputError: the source is none of these, or a target is unknown.
        HostError: the back-end asked for is not installed.
    """
    listener = progress or NullProgress()
    profile = profile or DeploymentProfile()
    settings = settings or Settings.from_environment()
    backend, targets = _engines(profile, listener) if engines else ("null", ())
    return Job(
        source=_source(source),
        profile=profile,
        recipe=recipe or CalibrationRecipe(),
        backend=backend,
        targets=targets,
        settings=settings,
        simplify=simplify,
        allow_random=allow_random,
    )


def build(job: Job, out: Path, progress: Progress | None = None) -> BuildResult:
    """Run the whole pipeline and write the bundle to ``out``.

    Args:
        job: from ``make_job``.
        out: a folder; created if need be. It is touched only after everything has been made.
        progress: listens.

    Raises:
        TrtpipeError: a stage failed; ``out`` is as it was. A failed gate is no error: see ``BuildResult``.
    """
    check_writable(out)
    _refuse_early(job)

    def publish(result: BuildResult) -> Path:
        where = out if result.accurate and result.fast and not result.failed else rejected_beside(out)
        publish_folder(result.artifacts, where)
        return where

    return run_published(job, stages_for(job), {}, publish, progress or NullProgress())


def plan(job: Job, progress: Progress | None = None) -> tuple[Step, ...]:
    """What ``build`` would do: which steps come from the store, which are built, and because of what."""
    _refuse_early(job)
    with opened(job, progress or NullProgress()) as pipeline:
        return pipeline.plan(stages_for(job), {})


def export(job: Job, out: Path, progress: Progress | None = None) -> BuildResult:
    """Source -> ``model.onnx``. ``out`` is a file or a folder, as for every function below."""
    return run_stage(job, "export", {}, out, GRAPH, progress)


def simplify(job: Job, model: Path, out: Path, progress: Progress | None = None) -> BuildResult:
    """``model.onnx`` -> ``simplified.onnx``."""
    return run_stage(job, "simplify", {"model": model}, out, GRAPH, progress)


def lower(
    job: Job, simplified: Path, out: Path, ranges: Path | None = None, progress: Progress | None = None
) -> BuildResult:
    """``simplified.onnx`` (and ``ranges.json`` for 8 bits) -> ``lowered.onnx``."""
    given = {"simplified": simplified}
    if job.profile.precision.calibrated:
        if ranges is None:
            raise InputError(
                f"lowering to {job.profile.precision} needs ranges",
                "make them with trtpipe calibrate, then add --ranges FILE",
            )
        given["ranges"] = ranges
    return run_stage(job, "lower", given, out, GRAPH, progress)


def compile(job: Job, lowered: Path, out: Path, progress: Progress | None = None) -> BuildResult:  # noqa: A001
    """``lowered.onnx`` -> ``<target>.plan`` for every target. ``out`` may be a file only for a single target.

    Args:
        lowered: for a back-end that compiles PyTorch programs, the source instead: a ``.pt2`` file or a factory.

    Raises:
        BuildError: no target can be built for, such as in 8 bits from a program; or the builder gives up.
    """
    if load_backend(job.backend).consumes == "program":
        _refuse_targets(job)  # a graph's precision is in it already, a program's is not
        job = replace(job, source=parse_source(str(lowered)))
        return run_stages(job, ("capture", "compile"), {}, out, PLAN if len(job.targets) == 1 else (), progress)
    return run_stage(job, "compile", {"lowered": lowered}, out, PLAN if len(job.targets) == 1 else (), progress)


def verify(
    job: Job, candidate: Path, out: Path | None, reference: Path, progress: Progress | None = None
) -> BuildResult:
    """Compare ``candidate`` (an ONNX graph or a plan) with ``reference`` (an ONNX graph) -> ``parity.json``.

    Raises:
        HostError: ``candidate`` is a plan that this machine cannot run.
    """
    given: dict[str, Path] = {"model": reference}
    if candidate.suffix in PLAN:
        given[runnable_engine(job, candidate)] = candidate
    else:
        given["lowered"] = candidate
    return run_stage(job, "verify", given, out, JSON, progress)


def measure(
    job: Job, model: Path, out: Path | None, graph: Path | None = None, progress: Progress | None = None
) -> BuildResult:
    """Time a plan on this machine's GPU, or an ONNX graph on its CPU -> ``latency.json``.

    Args:
        graph: the lowered graph of a plan (default: ``lowered.onnx`` beside it, if there is one). It names the open
            dimensions, and tells how to read data.

    Raises:
        HostError: ``model`` is a plan that this machine cannot run.
        InputError: there is data and a plan, and no graph.
    """
    return run_stage(job, "measure", to_measure(job, model, graph), out, JSON, progress)


def to_measure(job: Job, model: Path, graph: Path | None = None) -> dict[str, Path]:
    """What the measure stage needs of a plan or an ONNX graph, by label; for arguments and errors see ``measure``."""
    if model.suffix not in PLAN:
        return {"lowered": model}
    given = {runnable_engine(job, model): model}
    beside = graph or model.with_name("lowered.onnx")
    if graph is not None or beside.is_file():
        return {"lowered": beside, **given}
    if job.recipe.data.source or job.recipe.evaluation is not None:
        raise InputError(
            f"{model}: without the graph it was built from, data cannot be read as its inputs", "name it with --graph"
        )
    return given


def _engines(profile: DeploymentProfile, listener: Progress) -> tuple[str, tuple[Target, ...]]:
    """The back-end and the targets, those the user left open with the reason for the choice."""
    backend, why = choose_backend(profile.backend)
    if profile.backend == "auto":
        listener.note(f"backend {backend}: {why}")
    targets = tuple(find_target(name) for name in dict.fromkeys(profile.targets))
    if not targets:
        targets, why = default_targets(backend)
        listener.note(f"targets {', '.join(map(str, targets))}: {why}")
    return backend, targets


def _source(source: SourceLike | None) -> Source | None:
    if source is None:
        return None
    if isinstance(source, tuple):
        return ModuleSource(source[0], tuple(source[1]))
    return parse_source(str(source))


def _refuse_early(job: Job) -> None:
    """Complain about what is missing before the long work, not after it."""
    if job.profile.precision.calibrated and not job.recipe.data.source and not job.allow_random:
        raise InputError(
            f"{job.profile.precision} needs calibration data, and none was given",
            "add --calib-data (a folder of images, an .npz, or file.py:function) or --calib RECIPE.toml",
        )
    if job.profile.auto_shapes and not job.recipe.data.source:
        raise InputError(
            "shapes are to be inferred from calibration data, and none was given",
            "add --calib-data (or --calib RECIPE.toml), or give --min-shapes, --opt-shapes and --max-shapes",
        )
    _refuse_targets(job)


def _refuse_targets(job: Job) -> None:
    """Complain if no target can be built for; one that is left goes on, and the others are told at their turn."""
    refusals = [refusal for target in job.targets if (refusal := _refusal(job, target)) is not None]
    if refusals and len(refusals) == len(job.targets):
        raise BuildError(refusals[0].reason, refusals[0].remedy)


def _refusal(job: Job, target: Target) -> Refusal | None:
    """Why the back-end cannot build for ``target``, or the target cannot compute in the precision asked for."""
    if not target.computes(job.profile.precision):
        return Refusal(
            f"{target} ({target.family}) does not compute in {job.profile.precision}",
            "choose another precision, or a target that can",
        )
    return load_backend(job.backend).refuses(None, job.profile, target)


def runnable_engine(job: Job, plan_file: Path) -> str:
    """The label of a plan that can run here, as far as can be told without loading it.

    Raises:
        HostError: it cannot.
        InputError: it is damaged, or nothing says what it is for.
    """
    target = _target_of(job, plan_file)
    found = undamaged(plan_file)
    refusals = obstacles(found.plan, found.engine) if found.plan is not None else ()
    if not refusals and (refusal := load_backend(job.backend).runs(find_target(target))):
        refusals = (refusal,)
    if refusals:
        raise HostError(f"{plan_file} cannot run here: {refusals[0].reason}", refusals[0].remedy)
    return f"engine:{target}"


def undamaged(plan_file: Path) -> Inspection:
    """What is known of a plan.

    Raises:
        InputError: it is cut short, or the file beside it is of another one.
    """
    found = inspect(plan_file)
    if found.notes:
        raise InputError(f"{plan_file}: {found.notes[0]}", "build it again, or copy both files of it")
    return found


def _target_of(job: Job, plan_file: Path) -> str:
    """The target a plan was built for: by its sidecar, else the job's only target."""
    from trtpipe.engine.record import EngineRecord

    sidecar = plan_file.with_name(f"{plan_file.name}.json")
    if sidecar.is_file():
        return EngineRecord.read(sidecar).target
    if len(job.targets) == 1:
        return job.targets[0].name
    raise InputError(f"{plan_file}: which target is it for?", "add --target, for example --target sm89")
