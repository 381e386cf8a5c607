"""The public functions: one for the whole pipeline, one for each stage; the command line calls nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.api.arguments import BuildArguments, CommonArguments, takes
from trtpipe.api.engines import runnable_engine
from trtpipe.api.request import refuse_missing, refuse_without_data, requested
from trtpipe.api.results import (
    GRAPH,
    JSON,
    PLAN,
    BuildResult,
    provenance_of,
    publish_rejected,
    rejected_beside,
    run_published,
    run_stages,
)
from trtpipe.backends.base import Refusal, load_backend
from trtpipe.config.paths import path_of, path_or_none
from trtpipe.config.source import parse_source
from trtpipe.errors import BuildError, InputError
from trtpipe.pipeline.pipeline import Step, opened, stages_for
from trtpipe.pipeline.publish import check_writable, publish_folder
from trtpipe.progress import NullProgress, Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Unpack

    from trtpipe.api.arguments import DataLike, PrecisionLike, ShapesLike, SourceLike
    from trtpipe.config.job import Job
    from trtpipe.config.paths import PathLike
    from trtpipe.config.target import Target


@takes(BuildArguments)
def build(
    source: SourceLike,
    out: PathLike,
    *,
    locked: PathLike | None = None,
    handover: bool = False,
    **request: Unpack[BuildArguments],
) -> BuildResult:
    """Run the whole pipeline and write the bundle to ``out``: from a model to verified engines.

    Args:
        source: a path, ``file.py:factory``, ``package.module:factory``, an ``nn.Module``, an ``onnx.ModelProto``, or a
            job from ``make_job`` (with which of the other arguments only ``out`` and ``progress`` go).
        out: a folder; created if need be. It is touched only after everything has been made.
        locked: the folder of an earlier build: other versions of tools than its manifest holds are refused.
        handover: whether targets that cannot be built for here are left to machines of their own: the verdict says so,
            and ``make_package(out, folder, handover=target)`` writes what such a machine needs. Otherwise their
            engines are missing, and that is exit code 5.

    Returns:
        The steps, the reports and the verdict. A failed gate is no error: see ``BuildResult``.

    Raises:
        InputError: an argument, file or sample cannot be used.
        HostError: with ``locked``: a tool, or the back-end's device, is another one; each is named.
        TrtpipeError: a stage failed; ``out`` is as it was. If outputs could not be compared because of the data, what
            was finished is in ``<out>.rejected``.

    Example:
        >>> result = trtpipe.build("model.onnx", "out", precision="int8", calib_data="photos.npz", targets=["sm89"])
        >>> result.accurate
        True
        >>> result.out
        PosixPath('out')
    """
    folder = path_of(out, "out")
    check_writable(folder)
    with requested(source, **request) as asked:
        job = _refuse_early(asked, request.get("progress") or NullProgress(), locked, handover=handover)

        def publish(result: BuildResult) -> Path | None:
            rejected = result.verdict.exit_code != 0
            where = rejected_beside(folder) if rejected else folder
            with provenance_of(result.artifacts, job, where) as provenance:
                files = [*result.artifacts, *provenance]
                if rejected:
                    return publish_rejected(files, where, (request.get("progress") or NullProgress()).warn)
                publish_folder(files, folder)
            return folder

        return run_published(job, stages_for(job), {}, publish, request.get("progress"))


@takes(BuildArguments)
def dry_run(
    source: SourceLike,
    *,
    locked: PathLike | None = None,
    handover: bool = False,
    **request: Unpack[BuildArguments],
) -> tuple[Step, ...]:
    """What ``build`` would do with these arguments: which stages are cached, which would run, and why.

    Args:
        source: as ``build`` takes it; so are all other arguments.
        locked, handover: likewise.

    Returns:
        One step for every stage, one a target for compile. What depends on a stage that would run is undecided.

    Raises:
        InputError: an argument or file cannot be used.

    Example:
        >>> for step in trtpipe.dry_run("model.onnx", precision="fp16", targets=["sm89"])[:3]:
        ...     print(step.label, step.state)
        export to build
        simplify undecided
        observe skipped
    """
    with requested(source, **request) as asked:
        job = _refuse_early(asked, request.get("progress") or NullProgress(), locked, handover=handover)
        with opened(job, request.get("progress") or NullProgress()) as pipeline:
            return pipeline.plan(stages_for(job), {})


@takes(CommonArguments)
def export(
    source: SourceLike,
    out: PathLike,
    *,
    example_inputs: Sequence[object] | Mapping[str, object] | None = None,
    shapes: ShapesLike | None = None,
    **common: Unpack[CommonArguments],
) -> BuildResult:
    """Any source -> ``model.onnx``, self-contained and checked.

    Args:
        source: as ``build`` takes it.
        out: a file that ends in ``.onnx``, or a folder.
        shapes: dimensions in which min and max differ become dynamic.
        profile: its ``[export]`` table gives opset and names.

    Raises:
        InputError: the source cannot be used.
        StageError: it cannot be exported; the message names operator and line where PyTorch tells them.

    Example:
        >>> trtpipe.export("model.py:factory", "exported.onnx").out
        PosixPath('exported.onnx')
    """
    with requested(source, example_inputs=example_inputs, shapes=shapes, engines=False, **common) as job:
        return run_stages(job, ["export"], {}, path_of(out, "out"), GRAPH, common.get("progress"))


@takes(CommonArguments)
def simplify(
    model: PathLike,
    out: PathLike,
    *,
    precision: PrecisionLike | None = None,
    shapes: ShapesLike | None = None,
    simplify: bool = True,
    **common: Unpack[CommonArguments],
) -> BuildResult:
    """``model.onnx`` -> ``simplified.onnx``: the same function in fewer nodes.

    Args:
        model: an ONNX file.
        out: a file that ends in ``.onnx``, or a folder.
        precision: matters only because bf16 needs a newer opset.
        shapes: of the inputs on which the two graphs are compared.
        simplify: whether onnxsim may rewrite the graph, besides trtpipe's own passes.

    Raises:
        InputError: the model or its shapes cannot be used.

    Example:
        >>> trtpipe.simplify("model.onnx", "simplified.onnx").out
        PosixPath('simplified.onnx')
    """
    with requested(precision=precision, shapes=shapes, simplify=simplify, engines=False, **common) as job:
        given = {"model": path_of(model, "model")}
        return run_stages(job, ["simplify"], given, path_of(out, "out"), GRAPH, common.get("progress"))


@takes(CommonArguments)
def lower(
    simplified: PathLike,
    out: PathLike,
    *,
    ranges: PathLike | None = None,
    precision: PrecisionLike | None = None,
    keep: Sequence[str] | None = None,
    **common: Unpack[CommonArguments],
) -> BuildResult:
    """``simplified.onnx`` (and ``ranges.json``, to quantize) -> ``lowered.onnx``.

    Args:
        simplified: what ``simplify`` wrote.
        out: a file that ends in ``.onnx``, or a folder.
        ranges: what ``calibrate`` wrote; needed for int8, fp8 and best.
        recipe: its ``weights`` says how per-channel weight ranges are chosen.

    Raises:
        InputError: a file cannot be used, or ranges are missing.
        StageError: the graph cannot be lowered; the message names the node.

    Example:
        >>> trtpipe.lower("simplified.onnx", "lowered.onnx", precision="int8", ranges="ranges.json").out
        PosixPath('lowered.onnx')
    """
    with requested(precision=precision, keep=keep, engines=False, **common) as job:
        given = {"simplified": path_of(simplified, "simplified")}
        if job.profile.precision.calibrated:
            if ranges is None:
                raise InputError(
                    f"lowering to {job.profile.precision} needs ranges",
                    "make them with trtpipe calibrate, then add --ranges FILE",
                )
            given["ranges"] = path_of(ranges, "ranges")
        return run_stages(job, ["lower"], given, path_of(out, "out"), GRAPH, common.get("progress"))


@takes(CommonArguments)
def compile(  # noqa: A001  the pipeline's own word
    lowered: PathLike,
    out: PathLike,
    *,
    targets: Sequence[str] | None = None,
    shapes: ShapesLike | None = None,
    calib_data: DataLike | None = None,
    **common: Unpack[CommonArguments],
) -> BuildResult:
    """``lowered.onnx`` -> ``<target>.plan`` for every target.

    Args:
        lowered: for a back-end that compiles PyTorch programs, the source instead: a ``.pt2`` file or a factory.
        out: a folder; or, for a single target, a file that ends in ``.plan``, ``.engine`` or ``.trt``.
        calib_data: read only where ``shapes`` are ``"auto"``.

    Raises:
        InputError: the graph or its shapes cannot be used.
        BuildError: no target can be built for, such as a quantized precision from a program; or the builder fails.

    Example:
        >>> trtpipe.compile("lowered.onnx", "model.plan", targets=["sm89"]).out
        PosixPath('model.plan')
    """
    with requested(targets=targets, shapes=shapes, calib_data=calib_data, **common) as asked:
        file = path_of(lowered, "lowered")
        job, stages, given = asked, ["compile"], {"lowered": file}
        if load_backend(asked.backend).consumes == "program":
            # a graph's precision is in it already, a program's is not
            _refuse_targets(asked, common.get("progress") or NullProgress())
            job, stages, given = replace(asked, source=parse_source(str(file))), ["capture", "compile"], {}
        suffixes = PLAN if len(job.targets) == 1 else ()
        return run_stages(job, stages, given, path_of(out, "out"), suffixes, common.get("progress"))


@takes(CommonArguments)
def verify(
    candidate: PathLike,
    reference: PathLike,
    out: PathLike | None = None,
    *,
    eval_data: DataLike | None = None,
    precision: PrecisionLike | None = None,
    shapes: ShapesLike | None = None,
    **common: Unpack[CommonArguments],
) -> BuildResult:
    """Compare ``candidate`` (an ONNX graph or a plan) with ``reference`` (an ONNX graph) -> ``parity.json``.

    Args:
        out: where ``parity.json`` goes; a folder or a file.
        eval_data: the samples to compare on; without any, seeded random inputs are used.
        precision: the one whose default tolerances apply (default: the candidate's, where trtpipe made it).
        shapes: of the random inputs.
        profile: tolerances.
        recipe: the task metric, and how samples become feeds.

    Raises:
        InputError: a file or sample cannot be used.
        HostError: ``candidate`` is a plan that this machine cannot run.

    Example:
        >>> trtpipe.verify("lowered.onnx", "model.onnx", eval_data="photos.npz").accurate
        True
    """
    file = path_of(candidate, "candidate")
    plan = file.suffix in PLAN
    with requested(eval_data=eval_data, precision=precision, shapes=shapes, engines=plan, built=file, **common) as job:
        given = {"model": path_of(reference, "reference"), runnable_engine(job, file) if plan else "lowered": file}
        return run_stages(job, ["verify"], given, path_or_none(out, "out"), JSON, common.get("progress"))


@takes(CommonArguments)
def measure(
    model: PathLike,
    out: PathLike | None = None,
    *,
    graph: PathLike | None = None,
    shapes: ShapesLike | None = None,
    eval_data: DataLike | None = None,
    **common: Unpack[CommonArguments],
) -> BuildResult:
    """Time a plan on this machine's GPU, or an ONNX graph on its CPU -> ``latency.json``.

    Args:
        out: where ``latency.json`` goes; a folder or a file.
        graph: the lowered graph of a plan (default: ``lowered.onnx`` beside it, if there is one). It names the dynamic
            dimensions, and tells how to read data.
        shapes: the input shapes to measure at.
        eval_data: data whose first sample fills the inputs; without any, they are seeded random values.
        profile: its ``[latency]`` table says for how long, and at which batch sizes.

    Raises:
        HostError: ``model`` is a plan that this machine cannot run.
        InputError: there is data and a plan, and no graph.

    Example:
        >>> (found,) = trtpipe.measure("lowered.onnx").latency.measurements
        >>> found.on_gpu
        False
        >>> 0 < found.median <= found.p99  # milliseconds
        True
    """
    file, lowered = path_of(model, "model"), path_or_none(graph, "graph")
    plan = file.suffix in PLAN
    with requested(shapes=shapes, eval_data=eval_data, engines=plan, built=file, **common) as job:
        given = {runnable_engine(job, file) if plan else "lowered": file}
        beside = lowered or file.with_name("lowered.onnx")
        if plan and (lowered is not None or beside.is_file()):
            given = {"lowered": beside, **given}
        elif plan and (job.recipe.data.source or job.recipe.evaluation is not None):
            raise InputError(
                f"{file}: without the graph it was built from, data cannot be read as its inputs",
                "name it with --graph",
            )
        return run_stages(job, ["measure"], given, path_or_none(out, "out"), JSON, common.get("progress"))


def _refuse_early(job: Job, progress: Progress, locked: PathLike | None, *, handover: bool) -> Job:
    """Complain about what is missing before the long work, not after it.

    Returns:
        The job; with ``handover``, without the targets that this machine cannot build for.
    """
    if not isinstance(handover, bool):
        raise InputError(
            f"handover: {handover!r} is neither True nor False",
            "give handover=True, and the name of the target in targets",
        )
    if locked is not None:
        from trtpipe.api.upgrade import refuse_other_versions

        refuse_other_versions(job, path_of(locked, "locked"))
    refuse_missing(job)
    refuse_without_data(job)
    if job.profile.auto_shapes and not job.recipe.data.source:
        raise InputError(
            "shapes are to be inferred from calibration data, and none was given",
            "add --calib-data (or --calib RECIPE.toml), or give --min-shapes, --opt-shapes and --max-shapes",
        )
    if handover:
        job = _handed_over(job, progress)
    _refuse_targets(job, progress)
    return job


def _handed_over(job: Job, progress: Progress) -> Job:
    """The job without the targets that could compute it, and that the back-end does not build for here."""
    able = [target for target in job.targets if target.computes(job.profile.precision)]
    refusals = {target: refusal for target in able if (refusal := _refusal(job, target)) is not None}
    for target, refusal in refusals.items():
        progress.note(f"{target} is handed over: {refusal.reason}")
    here = tuple(target for target in job.targets if target not in refusals)
    return replace(job, targets=here, handed_over=tuple(refusals))


def _refuse_targets(job: Job, progress: Progress) -> None:
    """Complain if no target can be built for here; if one is left, say which will be missing, and go on with it."""
    refusals = {target: refusal for target in job.targets if (refusal := _refusal(job, target)) is not None}
    first = next(iter(refusals.values()), None)
    if first is not None and len(refusals) == len(job.targets):
        raise BuildError(first.reason, first.remedy)
    for target, refusal in refusals.items():
        progress.warn(
            f"{target} cannot be built here: {refusal.reason} ({refusal.remedy}); the engines for the other targets "
            f"are built and kept, and the exit code will be {BuildError.exit_code}"
        )


def _refusal(job: Job, target: Target) -> Refusal | None:
    """Why the back-end cannot build for ``target``, or the target cannot compute in the precision asked for."""
    if not target.computes(job.profile.precision):
        return Refusal(
            f"{target} ({target.family}) does not compute in {job.profile.precision}",
            "choose another precision, or a target that can",
        )
    return load_backend(job.backend).refuses(None, job.profile, target)
