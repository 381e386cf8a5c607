"""The public functions: one for the whole pipeline, one for each stage; the command line calls nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.accuracy.reports import ParityReport
from trtpipe.backends.base import Refusal, load_backend
from trtpipe.backends.choice import choose_backend, default_targets
from trtpipe.errors import BuildError, EnvironmentLacks, InputError
from trtpipe.job import Job
from trtpipe.latency.reports import LatencyReport
from trtpipe.oserrors import translate_os_errors
from trtpipe.pipeline import STAGES, Step, artifact_from_file, opened, stages_named
from trtpipe.profile import CALIBRATED, DeploymentProfile
from trtpipe.progress import Progress, Silent
from trtpipe.publish import check_writable, publish_file, publish_folder
from trtpipe.recipe import CalibrationRecipe
from trtpipe.report.manifest import Manifest
from trtpipe.report.verdict import Verdict, verdicts
from trtpipe.settings import Settings
from trtpipe.source import ModuleSource, Source, parse_source
from trtpipe.target import Target, find_target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trtpipe.artifact import Artifact
    from trtpipe.calibration.trt_cache import CacheImport
    from trtpipe.stages.stage import Stage
    from trtpipe.target import Target

SourceLike: TypeAlias = "str | Path | tuple[object, tuple[object, ...]]"

#: element type of a precision, where not every target has it
_ELEMENT_TYPES = {"fp8": "float8_e4m3fn", "bf16": "bfloat16"}
_GRAPH = (".onnx",)
_PLAN = (".plan", ".engine", ".trt")
_JSON = (".json",)


@dataclass(frozen=True)
class BuildResult:
    """What a run made.

    Attributes:
        steps: one for every stage, one a target for compile.
        out: where the files are; ``None`` if nothing was written. A bundle that failed a gate goes to
            ``<out>.rejected``, so that ``out`` only ever holds one that passed.
        parity, latency: the reports, where these stages ran.
    """

    steps: tuple[Step, ...]
    out: Path | None
    parity: ParityReport | None = None
    latency: LatencyReport | None = None

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Everything that was made or found, in pipeline order."""
        return tuple(step.artifact for step in self.steps if step.artifact is not None)

    @property
    def accurate(self) -> bool:
        """Whether the accuracy gate holds (true where nothing was judged)."""
        return self.parity is None or self.parity.passed

    @property
    def fast(self) -> bool:
        """Whether the latency gate holds (true where nothing was judged)."""
        return self.latency is None or self.latency.passed

    @property
    def failed(self) -> tuple[Step, ...]:
        """Targets that could not be built while others could."""
        return tuple(step for step in self.steps if step.state == "failed")

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One for every gate that has a report."""
        return verdicts(self.parity, self.latency)

    @property
    def manifest(self) -> Manifest | None:
        """The index of the bundle, where one was made."""
        artifact = next((artifact for artifact in self.artifacts if artifact.kind == "manifest"), None)
        return None if artifact is None else Manifest.read(artifact.path)


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
        EnvironmentLacks: the back-end asked for is not installed.
    """
    listener = progress or Silent()
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
        where = out if result.accurate and result.fast else out.with_name(f"{out.name}.rejected")
        publish_folder(result.artifacts, where)
        return where

    return _run(job, STAGES, {}, publish, progress or Silent())


def plan(job: Job, progress: Progress | None = None) -> tuple[Step, ...]:
    """What ``build`` would do: which steps come from the store, which are built, and because of what."""
    _refuse_early(job)
    with opened(job, progress or Silent()) as pipeline:
        return pipeline.plan(STAGES, {})


def export(job: Job, out: Path, progress: Progress | None = None) -> BuildResult:
    """Source -> ``model.onnx``. ``out`` is a file or a folder, as for every function below."""
    return _single(job, "export", {}, out, _GRAPH, progress)


def simplify(job: Job, model: Path, out: Path, progress: Progress | None = None) -> BuildResult:
    """``model.onnx`` -> ``simplified.onnx``."""
    return _single(job, "simplify", {"model": model}, out, _GRAPH, progress)


def calibrate(job: Job, simplified: Path, out: Path, progress: Progress | None = None) -> BuildResult:
    """``simplified.onnx`` and the recipe's data -> ``ranges.json`` and ``statistics.npz``, in one pass.

    The statistics stay in the store: asking for another method later costs no new pass.
    """
    return _stages(_eight_bit(job), ("observe", "calibrate"), {"simplified": simplified}, out, _JSON, progress)


def derive(job: Job, simplified: Path, statistics: Path, out: Path, progress: Progress | None = None) -> BuildResult:
    """``statistics.npz`` -> ``ranges.json``, without a pass over data; only the method ``auto`` looks at samples."""
    given = {"simplified": simplified, "statistics": statistics}
    return _stages(_eight_bit(job), ("calibrate",), given, out, _JSON, progress)


def import_trt_cache(cache: Path, simplified: Path, out: Path, keep: Sequence[str] = ()) -> CacheImport:
    """The scales of a calibration cache that TensorRT 8 to 10 wrote, as ``ranges.json`` for ``simplified.onnx``.

    Args:
        cache: the text file a calibrator wrote, with the graph's own tensor names.
        keep: shell patterns of node names that stay in high precision.

    Raises:
        InputError: no such cache (the message names the line), or it knows none of the graph's tensors.
        EnvironmentLacks: ``out`` cannot be written.
    """
    from trtpipe.calibration.trt_cache import apply_trt_cache, read_trt_cache
    from trtpipe.stages.observe import tensors_of

    check_writable(out.parent)
    result = apply_trt_cache(read_trt_cache(cache), tensors_of(simplified, tuple(keep)))
    with translate_os_errors(out, f"write {out}", elsewhere="choose another output with -o"):
        out.parent.mkdir(parents=True, exist_ok=True)
        result.ranges.write(out)
    return result


def lower(
    job: Job, simplified: Path, out: Path, ranges: Path | None = None, progress: Progress | None = None
) -> BuildResult:
    """``simplified.onnx`` (and ``ranges.json`` for 8 bits) -> ``lowered.onnx``."""
    given = {"simplified": simplified}
    if job.profile.precision in CALIBRATED:
        if ranges is None:
            raise InputError(
                f"lowering to {job.profile.precision} needs ranges",
                "make them with trtpipe calibrate, then add --ranges FILE",
            )
        given["ranges"] = ranges
    return _single(job, "lower", given, out, _GRAPH, progress)


def compile(job: Job, lowered: Path, out: Path, progress: Progress | None = None) -> BuildResult:  # noqa: A001
    """``lowered.onnx`` -> ``<target>.plan`` for every target. ``out`` may be a file only for a single target."""
    return _single(job, "compile", {"lowered": lowered}, out, _PLAN if len(job.targets) == 1 else (), progress)


def verify(
    job: Job, candidate: Path, out: Path | None, reference: Path, progress: Progress | None = None
) -> BuildResult:
    """Compare ``candidate`` (an ONNX graph or a plan) with ``reference`` (an ONNX graph) -> ``parity.json``.

    Raises:
        EnvironmentLacks: ``candidate`` is a plan that this machine cannot run.
    """
    given: dict[str, Path] = {"model": reference}
    if candidate.suffix in _PLAN:
        given[_runnable_engine(job, candidate)] = candidate
    else:
        given["lowered"] = candidate
    return _single(job, "verify", given, out, _JSON, progress)


def measure(
    job: Job, model: Path, out: Path | None, graph: Path | None = None, progress: Progress | None = None
) -> BuildResult:
    """Time a plan on this machine's GPU, or an ONNX graph on its CPU -> ``latency.json``.

    Args:
        graph: the lowered graph of a plan, which knows the inputs' shapes (default: ``lowered.onnx`` beside the plan).

    Raises:
        EnvironmentLacks: ``model`` is a plan that this machine cannot run.
    """
    if model.suffix not in _PLAN:
        return _single(job, "measure", {"lowered": model}, out, _JSON, progress)
    label, lowered = _runnable_engine(job, model), graph or model.with_name("lowered.onnx")
    if graph is None and not lowered.is_file():
        raise InputError(f"{model}: no lowered.onnx lies beside it, to tell the inputs' shapes", "name it with --graph")
    given = {"lowered": lowered, label: model}
    return _single(job, "measure", given, out, _JSON, progress)


def _eight_bit(job: Job) -> Job:
    """The job, for int8 where its precision needs no ranges."""
    if job.profile.precision in CALIBRATED:
        return job
    return replace(job, profile=job.profile.model_copy(update={"precision": "int8"}))


def _single(
    job: Job, name: str, given: Mapping[str, Path], out: Path | None, suffixes: Sequence[str], progress: Progress | None
) -> BuildResult:
    """One stage from the files of the user's."""
    return _stages(job, (name,), given, out, suffixes, progress)


def _stages(
    job: Job,
    names: tuple[str, ...],
    given: Mapping[str, Path],
    out: Path | None,
    suffixes: Sequence[str],
    progress: Progress | None,
) -> BuildResult:
    """Some stages from the files of the user's, through the same code as the whole pipeline.

    If ``out`` is a file, the last artifact gets this name, and the others lie beside it under their own.
    """
    if out is not None:
        check_writable(out.parent if out.suffix in suffixes and not out.is_dir() else out)
    artifacts = {}
    for label, path in given.items():
        kind, _, target = label.partition(":")
        artifacts[label] = artifact_from_file(kind, path, target or None)

    def publish(result: BuildResult) -> Path | None:
        if out is None:
            return None
        if len(names) > 1 and out.suffix in suffixes and not out.is_dir():
            for artifact in result.artifacts[:-1]:
                name = artifact.files[0].name
                publish_file(artifact, out.with_name(name), (Path(name).suffix,))
            return publish_file(result.artifacts[-1], out, suffixes)
        if len(result.artifacts) == 1:
            return publish_file(result.artifacts[0], out, suffixes)
        publish_folder(result.artifacts, out)
        return out

    return _run(job, stages_named(*names), artifacts, publish, progress or Silent())


def _run(
    job: Job,
    stages: tuple[Stage, ...],
    given: Mapping[str, Artifact],
    publish: Callable[[BuildResult], Path | None],
    progress: Progress,
) -> BuildResult:
    """Run and publish while the store is open: what it hands out is pinned until then."""
    with opened(job, progress) as pipeline:
        steps = pipeline.run(stages, given)
        made = {step.artifact.kind: step.artifact for step in steps if step.artifact is not None}
        result = BuildResult(
            steps=steps,
            out=None,
            parity=ParityReport.read(made["parity"].path) if "parity" in made else None,
            latency=LatencyReport.read(made["latency"].path) if "latency" in made else None,
        )
        return replace(result, out=publish(result))


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
    if job.profile.precision in CALIBRATED and not job.recipe.data.source and not job.allow_random:
        raise InputError(
            f"{job.profile.precision} needs calibration data, and none was given",
            "add --calib-data (a folder of images, an .npz, or file.py:function) or --calib RECIPE.toml",
        )
    refusals = [refusal for target in job.targets if (refusal := _refusal(job, target)) is not None]
    if refusals and len(refusals) == len(job.targets):  # one that is left goes on; the others are told at their turn
        raise BuildError(refusals[0].reason, refusals[0].remedy)


def _refusal(job: Job, target: Target) -> Refusal | None:
    """Why the back-end cannot build for ``target``, or the target cannot compute in the precision asked for."""
    dtype = _ELEMENT_TYPES.get(job.profile.precision)
    if dtype is not None and dtype not in target.dtypes:
        return Refusal(
            f"{target} ({target.family}) does not compute in {job.profile.precision}",
            "choose another precision, or a target that can",
        )
    return load_backend(job.backend).refuses(None, job.profile, target)


def _runnable_engine(job: Job, plan_file: Path) -> str:
    """The label of a plan that can run here."""
    from trtpipe.backends.base import load_backend

    target = _target_of(job, plan_file)
    if refusal := load_backend(job.backend).runs(find_target(target)):
        raise EnvironmentLacks(f"{plan_file} cannot run here: {refusal.reason}", refusal.remedy)
    return f"engine:{target}"


def _target_of(job: Job, plan_file: Path) -> str:
    """The target a plan was built for: by its sidecar, else the job's only target."""
    from trtpipe.backends.base import EngineFacts

    sidecar = plan_file.with_name(f"{plan_file.name}.json")
    if sidecar.is_file():
        return EngineFacts.read(sidecar).target
    if len(job.targets) == 1:
        return job.targets[0].name
    raise InputError(f"{plan_file}: which target is it for?", "add --target, for example --target sm89")
