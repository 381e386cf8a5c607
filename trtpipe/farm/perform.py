"""A task, done on a worker: the same pipeline as a build on one machine, as far as the task goes."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

import trtpipe
from trtpipe.accuracy.reports import ParityReport
from trtpipe.api.request import make_job, refuse_without_data
from trtpipe.backends.base import load_backend, missing
from trtpipe.config.settings import Settings
from trtpipe.config.target import find_target
from trtpipe.digest import sha256_json
from trtpipe.engine.record import EngineFigures, EngineRecord
from trtpipe.errors import HostError, InputError, InternalError, TrtpipeError
from trtpipe.farm.tasks import Figures, StageDone, TaskError, TaskReply, TaskRequest, begins
from trtpipe.latency.reports import LatencyReport
from trtpipe.pipeline.executor import failures_of
from trtpipe.pipeline.pipeline import Pipeline, opened_store, stages_for
from trtpipe.progress import NullProgress
from trtpipe.report.verdict import Evidence, verdict_of
from trtpipe.stages.observe import Observe
from trtpipe.stages.observe_shards import ObserveFromShards, ObserveShard, can_shard
from trtpipe.store.layout import seal_name
from trtpipe.store.shipping import receive, same_here

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.artifact import Artifact
    from trtpipe.config.job import Job
    from trtpipe.farm.tasks import SealedCopy
    from trtpipe.pipeline.executor import State, Step
    from trtpipe.stages.stage import Stage
    from trtpipe.store import ArtifactStore

#: Of a message, and of warnings in a reply.
_LONGEST, _MOST = 2000, 20


class _Warnings(NullProgress):
    """Keeps what has to be said where the matrix was started."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, message: str) -> None:
        self.lines.append(message[:_LONGEST])

    @property
    def unique(self) -> tuple[str, ...]:
        """The first of them, each once."""
        return tuple(dict.fromkeys(self.lines))[:_MOST]


def perform_text(text: str) -> str:
    """``perform``, from JSON to JSON. Whatever goes wrong is in the reply."""
    begin = time.monotonic()
    try:
        reply = perform(TaskRequest.model_validate_json(text))
    except ValidationError as fault:
        error = HostError(
            f"this worker does not understand the driver: {fault.errors()[0]['msg']}",
            "use one version of trtpipe on all machines",
        )
        reply = failed(error, begin)
    return reply.to_line()


def perform(request: TaskRequest) -> TaskReply:
    """Run the stages of a task."""
    begin, said = time.monotonic(), _Warnings()
    return _perform(request, said, begin).model_copy(update={"warnings": said.unique})


def _perform(request: TaskRequest, said: _Warnings, begin: float) -> TaskReply:
    try:
        own = Settings.from_environment()
        cache = Path(request.cache_dir) if request.cache_dir else own.cache_dir
        settings = replace(own, store=request.store or None, cache_dir=cache)
        _check_same(request, settings)
        with opened_store(settings, "", said) as store:
            return _run(request, settings, store, said, begin)
    except (TrtpipeError, OSError, InternalError) as error:
        return failed(error, begin)
    except Exception as error:  # noqa: BLE001  a bug on one worker is no end of the driver
        return failed(InternalError(f"{type(error).__name__}: {error}"), begin)


def found(request: TaskRequest, settings: Settings, store: ArtifactStore) -> TaskReply | None:
    """What a worker on this machine would reply, where the store has all that it would make; ``None`` otherwise."""
    begin, said = time.monotonic(), _Warnings()
    try:
        job = _job(request, settings)
        stages = tuple(stage for stage in stages_for(job) if stage.name in request.stages)
        steps = Pipeline(job, store, NullProgress()).plan(stages, {})
        if any(step.state not in ("hit", "skipped") for step in steps):
            return None
        return _run(request, settings, store, said, begin).model_copy(update={"warnings": said.unique})
    except TrtpipeError:  # its worker says so
        return None


def foreseen(request: TaskRequest, settings: Settings, store: ArtifactStore) -> list[State]:
    """What ``perform`` would find of all stages of the build that the task ends, as far as that is known beforehand.

    Raises:
        TrtpipeError: the back-end or the model is not on this machine, or cannot be used.
    """
    job = _job(request, settings)
    return [step.state for step in Pipeline(job, store, NullProgress()).plan(stages_for(job), {})]


def _check_same(request: TaskRequest, settings: Settings) -> None:
    """Refuse to work for another trtpipe: what it means by a stage, or trusts, may be something else. And for who takes
    this worker for another one: what it has may have changed since it said so."""
    here = socket.gethostname()
    if request.trtpipe != trtpipe.__version__:
        raise HostError(
            f"worker {here} has trtpipe {trtpipe.__version__}, the driver {request.trtpipe}",
            "install one version on all machines",
        )
    if request.seal != seal_name(settings.key):
        raise HostError(
            f"worker {here} seals what it stores with another key than the driver",
            "set TRTPIPE_CACHE_KEY to the same secret on all machines",
        )
    flavor = request.needs.flavor
    if flavor:
        found = None if missing(flavor) else load_backend(flavor).fingerprint(settings).get(flavor, "")
        if found is None or not begins(found, request.needs.version):
            raise HostError(
                f"worker {here} was taken for one with {request.needs}, and has {'none' if found is None else found}",
                "start its node again, with what trtpipe doctor --resources prints now",
            )


def _run(request: TaskRequest, settings: Settings, store: ArtifactStore, said: _Warnings, begin: float) -> TaskReply:
    job = _job(request, settings)
    pipeline = Pipeline(job, store, said)
    steps = pipeline.run(_stages(request, job, pipeline), {})
    made = [(step.artifact, step.stored_under) for step in steps if step.artifact is not None]
    artifacts = [artifact for artifact, _ in made]
    return TaskReply(
        worker=socket.gethostname(),
        seconds=time.monotonic() - begin,
        steps=tuple(StageDone(label=s.label, state=s.state, seconds=s.seconds, because=s.because) for s in steps),
        artifacts={
            s.artifact.label: s.stored_under for s in steps if s.artifact is not None and s.stored_under is not None
        },
        figures=_figures(job, artifacts, steps) if request.last else None,
    )


def _stages(request: TaskRequest, job: Job, pipeline: Pipeline) -> tuple[Stage[Any], ...]:
    """The stages of a task; where the calibration data was split, ``observe`` puts together what was found."""
    stages = tuple(stage for stage in stages_for(job) if stage.name in request.stages)
    names = [stage.name for stage in stages]
    if request.shards < 2 or "observe" not in names or not can_shard(Observe().settings(job)):
        return stages
    at = names.index("observe")
    if pipeline.plan(stages[: at + 1], {})[-1].state == "hit":
        return stages
    if request.shard is not None:
        return (*stages[:at], ObserveShard(*request.shard))
    found = pipeline.run((*stages[:at], *(ObserveShard(index, request.shards) for index in range(request.shards))), {})
    shards = [step.artifact for step in found[at:] if step.artifact is not None]
    return (*stages[:at], ObserveFromShards(shards), *stages[at + 1 :])


def _job(request: TaskRequest, settings: Settings) -> Job:
    """The job of a task, on this worker's paths."""
    moved = {copy.path: _at(copy, request, settings) for copy in request.copies}
    source = moved.get(request.source, request.source)
    recipe = request.recipe
    data = recipe.data.model_copy(update={"source": moved.get(recipe.data.source, recipe.data.source)})
    recipe = recipe.model_copy(update={"data": data})
    if recipe.evaluation is not None:
        there = moved.get(recipe.evaluation.source, recipe.evaluation.source)
        recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"source": there})})
    job = make_job(source, engines=False, profile=request.profile, recipe=recipe, settings=settings)
    # what comes before ranges does not depend on the back-end, but for its parser, which is asked where there is one
    backend = "null" if missing(request.backend) and "calibrate" not in request.stages else request.backend
    load_backend(backend)
    job = replace(job, backend=backend, targets=(find_target(request.target),))
    refuse_without_data(job, "calib_data")
    return job


def _at(copy: SealedCopy, request: TaskRequest, settings: Settings) -> str:
    """Where the file or folder of the driver is here: under the same path, or fetched."""
    path = Path(copy.path)
    if same_here(path if copy.folder else path.parent, copy.files):
        return copy.path
    if not copy.sent:
        size = sum(entry.size for entry in copy.files)
        raise InputError(
            f"{copy.path}: worker {socket.gethostname()} does not have it under the same path, and its {size:,} bytes "
            "are too many to be sent",
            "put the files where all workers see them under the same path, or raise ship_limit",
        )
    if not request.store:
        raise HostError(
            f"{copy.path}: lies on the driver alone, and there is no shared store to send it through",
            "add --store, or put it where all workers see it",
        )
    from trtpipe.remote import open_bucket

    digest = sha256_json([entry.to_dict() for entry in copy.files])
    folder = settings.cache_dir.absolute() / "sent" / digest
    receive(open_bucket(request.store), copy.files, folder)
    return str(folder if copy.folder else folder / copy.files[0].name)


def _figures(job: Job, artifacts: Sequence[Artifact], steps: Sequence[Step]) -> Figures:
    """The build in figures, with its verdict."""
    limit = job.profile.latency.max_p99
    verdict = verdict_of(Evidence.of(artifacts, failures_of(steps), latency_limit=limit))
    found = {artifact.label: artifact for artifact in artifacts}
    records = [
        EngineFigures.of(EngineRecord.read(each.sidecar), each.path.stat().st_size)
        for each in artifacts
        if each.kind == "engine" and each.described
    ]
    metric = _metric(ParityReport.read(found["parity"].path)) if "parity" in found else ("", None, None)
    latency = LatencyReport.read(found["latency"].path) if "latency" in found else None
    on_gpu = [] if latency is None else [each for each in latency.measurements if each.on_gpu]
    return Figures(
        outcome=verdict.outcome,
        exit_code=verdict.exit_code,
        headline=verdict.headline,
        metric=metric[0],
        value=metric[1],
        drop=metric[2],
        size=_sum([record.size for record in records]),
        kernels=_sum([record.kernels for record in records]),
        weight_bytes=_sum([record.weight_bytes for record in records]),
        activation_bytes=_sum([record.activation_bytes for record in records]),
        median=on_gpu[-1].median if on_gpu else None,
        p99=on_gpu[-1].p99 if on_gpu else None,
        version=records[0].version if records else "",
    )


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _metric(parity: ParityReport) -> tuple[str, float | None, float | None]:
    """The task metric of what decides, which was compared last, and its drop."""
    values = {value.artifact: value for value in parity.metrics}
    if len(values) < 2:
        return "", None, None
    first, last = next(iter(values.values())), list(values.values())[-1]
    return last.metric, last.value, last.loss(first)


def failed(error: BaseException, begin: float) -> TaskReply:
    """The reply of a task that failed."""
    known = error if isinstance(error, TrtpipeError) else None
    kind = type(error).__name__
    words = TaskError(
        kind=kind,
        message=(known.message if known is not None else f"internal error: {kind}: {error}")[:_LONGEST],
        remedy=known.remedy if known is not None else "report it, with the log of the worker",
        exit_code=known.exit_code if known is not None else InternalError.exit_code,
    )
    return TaskReply(worker=socket.gethostname(), seconds=time.monotonic() - begin, error=words)
