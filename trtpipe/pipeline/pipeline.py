"""The pipeline: which stages there are, in which order, and how artifacts flow between them and the store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trtpipe.artifact import Artifact
from trtpipe.config.build_request import NotNeeded
from trtpipe.config.job import Job
from trtpipe.config.os_errors import translate_os_errors
from trtpipe.errors import StageError, TrtpipeError
from trtpipe.pipeline.executor import ELSEWHERE, Executor, State, Step, failures_of, label_of
from trtpipe.pipeline.multi_target import MultiTargetBuild
from trtpipe.pipeline.run_state import RunState, artifact_from_file, with_shapes
from trtpipe.progress import Progress
from trtpipe.stages.bundle import Bundle
from trtpipe.stages.calibrate import Calibrate
from trtpipe.stages.capture import Capture
from trtpipe.stages.compile import Compile
from trtpipe.stages.export import Export
from trtpipe.stages.lower import Lower
from trtpipe.stages.measure import Measure
from trtpipe.stages.observe import Observe
from trtpipe.stages.reference import Reference
from trtpipe.stages.simplify import Simplify
from trtpipe.stages.stage import Shareable
from trtpipe.stages.verify import Verify
from trtpipe.store import ArtifactStore, SharedStore

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.config.settings import Settings
    from trtpipe.data.dataset import Dataset
    from trtpipe.stages.stage import Stage

__all__ = ["STAGES", "Pipeline", "State", "Step", "opened", "opened_store", "stages_for", "stages_named"]

#: The pipeline, from source to bundle.
STAGES: tuple[Stage[Any], ...] = (
    Export(),
    Capture(),
    Simplify(),
    Observe(),
    Calibrate(),
    Lower(),
    Compile(),
    Reference(),
    Verify(),
    Measure(),
    Bundle(),
)

#: Artifacts that not every job has.
_PYTORCH = ("reference", "program")


class Pipeline:
    """Runs stages of one job against one store."""

    def __init__(
        self,
        job: Job,
        store: ArtifactStore,
        progress: Progress,
        datasets: dict[str, Dataset] | None = None,
        parsed: set[str] | None = None,
    ) -> None:
        self._job = job
        self._store = store
        self._progress = progress
        self._executor = Executor(job, store, progress)
        self._datasets: dict[str, Dataset] = {} if datasets is None else datasets
        self._parsed: set[str] = set() if parsed is None else parsed

    def varied(self, job: Job, progress: Progress) -> Pipeline:
        """A pipeline for a variation of this job, on the same model and the same data."""
        return Pipeline(job, self._store, progress, self._datasets, self._parsed)

    def run(self, stages: tuple[Stage[Any], ...], given: Mapping[str, Artifact]) -> tuple[Step, ...]:
        """Make every artifact that ``stages`` produce.

        One failing target does not lose the others, and a stage that a later one of ``stages`` can do without does not
        lose what is there: the step is ``failed`` and the rest goes on. If all targets of a stage fail, the first error
        is raised.

        Args:
            stages: in pipeline order.
            given: artifacts the user supplies, by label.

        Raises:
            TrtpipeError: a stage failed.
        """
        state = self._state(stages, given)
        steps: list[Step] = []
        for position, stage in enumerate(stages):
            optional = any(stage.produces in later.optional for later in stages[position + 1 :])
            errors: list[StageError] = []
            try:
                made = list(self._run_stage(stage, state, errors))
            except TrtpipeError as error:
                if not optional:
                    raise
                made = [self._gone_without(stage, error)]
            if errors and len(errors) == len(made):
                raise errors[0]
            state.failures += failures_of(made)
            steps += made
        return tuple(steps)

    def _gone_without(self, stage: Stage[Any], error: TrtpipeError) -> Step:
        self._progress.warn(f"{stage.name} failed, and the rest goes on: {error.message} ({error.remedy})")
        return Step(stage.name, "failed", error.message, error=error)

    @contextmanager
    def given(self, files: Mapping[str, Path]) -> Iterator[dict[str, Artifact]]:
        """Files of the user's as artifacts, by label; graphs are private copies that last as long as the context.

        Raises:
            InputError: a file is missing, or a graph does not pass the pre-flight.
        """
        artifacts = {}
        with self._store.workdir() as folder:
            for number, (label, path) in enumerate(files.items()):
                kind, _, target = label.partition(":")
                seal_in = folder / str(number)
                with translate_os_errors(folder, f"copy {path}", elsewhere=ELSEWHERE):
                    artifacts[label] = artifact_from_file(kind, path, target or None, seal_in=seal_in)
            yield artifacts

    def plan(self, stages: tuple[Stage[Any], ...], given: Mapping[str, Artifact]) -> tuple[Step, ...]:
        """What ``run`` would do, as far as that is known without doing it."""
        state = self._state(stages, given)
        return tuple(step for stage in stages for step in self._plan_stage(stage, state))

    def _state(self, stages: tuple[Stage[Any], ...], given: Mapping[str, Artifact]) -> RunState:
        engines = any(stage.produces == "engine" for stage in stages)
        return RunState(
            dict(given),
            complete_shapes=engines,
            datasets=self._datasets,
            parsed=self._parsed,
            progress=self._progress,
        )

    def _run_stage(self, stage: Stage[Any], state: RunState, errors: list[StageError]) -> Iterator[Step]:
        if skipped := self._skipped(stage, state):
            yield skipped
            return
        # Reads of what was made and of what it was made of fail outside of the stage, too.
        with translate_os_errors(self._store.root, f"run {stage.name}", elsewhere=ELSEWHERE):
            if stage.produces == "engine":
                several = MultiTargetBuild(self._executor, self._store, self._progress, stage, state)
                yield from several.run(_variants(stage, self._job))
                errors += several.errors
                return
            self._progress.begin(stage.name)
            try:
                step = self._executor.make(stage, self._job, state, time.perf_counter())
            except BaseException:
                self._progress.end(stage.name, "failed")
                raise
        self._progress.end(stage.name, step.state)
        yield step

    def _skipped(self, stage: Stage[Any], state: RunState) -> Step | None:
        """The step of a stage that is not needed; for others the job is completed with shapes, once these are known."""
        if isinstance(unneeded := stage.settings(self._job), NotNeeded):
            return Step(stage.name, "skipped", unneeded.reason)
        job = with_shapes(self._job, state, self._progress)
        if job is not self._job:
            self._job, self._executor = job, Executor(job, self._store, self._progress)
        return None

    def _plan_stage(self, stage: Stage[Any], state: RunState) -> Iterator[Step]:
        if skipped := self._skipped(stage, state):
            yield skipped
            return
        for job in _variants(stage, self._job):
            label = label_of(stage, job)
            if waits := sorted(set(stage.consumes(stage.settings(job))) & state.unknown):
                state.unknown.add(stage.produces)
                yield Step(label, "undecided", f"depends on {', '.join(waits)}")
                continue
            prepared = self._executor.prepare(stage, job, state)
            key = prepared.key
            artifact = None if key is None or self._store.peek(key) is None else self._store.lookup(key, share=False)
            if key is not None and artifact is not None:
                yield self._executor.found(prepared, state, artifact, key, time.perf_counter())
            else:
                state.unknown.add(stage.produces)
                yield Step(label, "to build", self._executor.because(prepared), key="" if key is None else key.digest)


def stages_for(job: Job) -> tuple[Stage[Any], ...]:
    """The pipeline for a job: without the stages that only PyTorch sources need, where there is none for them."""
    return tuple(
        stage for stage in STAGES if not (stage.produces in _PYTORCH and isinstance(stage.settings(job), NotNeeded))
    )


def stages_named(*names: str) -> tuple[Stage[Any], ...]:
    """The stages called ``names``, in pipeline order."""
    return tuple(stage for stage in STAGES if stage.name in names)


@contextmanager
def opened(job: Job, progress: Progress) -> Iterator[Pipeline]:
    """A pipeline over the user's store.

    Raises:
        InputError: the address of the shared store is none.
        HostError: the shared store cannot be used.
    """
    with opened_store(job.settings, job.profile.store.url, progress) as store:
        yield Pipeline(job, store, progress)


def opened_store(settings: Settings, url: str, progress: Progress) -> ArtifactStore:
    """The user's cache, in front of the store that is shared, where one is.

    Args:
        url: the address of the profile's, which the environment's overrides; empty for none.
    """
    shared, where = None, settings.store or url
    if where:
        shared = SharedStore(where, settings.key, progress, settings.store_lease)
    return ArtifactStore(settings.cache_dir, progress, settings.key, shared)


def _variants(stage: Stage[Any], job: Job) -> tuple[Job, ...]:
    if stage.produces != "engine":
        return (job,)
    if not job.targets:
        raise StageError("no target to compile for", "add --target, for example --target sm89")
    together = stage.together(job) if isinstance(stage, Shareable) else ()
    return tuple(job.for_target(target, together) for target in job.targets)
