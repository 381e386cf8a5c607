"""The engines of one run: several targets from one plan where they can share it, and otherwise side by side."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trtpipe.config.os_errors import translate_os_errors
from trtpipe.errors import InternalError, OutOfMemory, OutOfTime, StageError
from trtpipe.isolation.thread_pool import Task, run_tasks
from trtpipe.isolation.worker import affordable
from trtpipe.pipeline.executor import ELSEWHERE, Executor, Prepared, Step, label_of
from trtpipe.stages.stage import Shareable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trtpipe.artifact import Artifact, Draft
    from trtpipe.config.job import Job
    from trtpipe.isolation.thread_pool import TaskResult
    from trtpipe.pipeline.run_state import RunState
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs, Stage
    from trtpipe.store import ArtifactStore, Key


@dataclass(frozen=True)
class _Missing:
    """An engine that has to be built."""

    work: Prepared
    key: Key
    because: str


class MultiTargetBuild:
    """Makes one artifact of a stage for every target; one target that fails does not lose the others.

    Attributes:
        errors: why targets failed, in the order they did.
    """

    def __init__(
        self, executor: Executor, store: ArtifactStore, progress: Progress, stage: Stage[Any], state: RunState
    ) -> None:
        self._executor = executor
        self._store = store
        self._progress = progress
        self._stage = stage
        self._state = state
        self._steps: dict[str, Step] = {}
        self._made: dict[str, tuple[Artifact, Inputs]] = {}
        self.errors: list[StageError] = []

    def run(self, jobs: Sequence[Job]) -> list[Step]:
        """One step for each of ``jobs``, in their order.

        Raises:
            TrtpipeError: what is no fault of a target.
        """
        shared = [job for job in jobs if job.together]
        left = {job.target for job in self._make_shared(shared)} if shared else set()
        jobs = [replace(job, together=()) if job.target in left else job for job in jobs]
        self._make_alone([job for job in jobs if not job.together])
        labels = [label_of(self._stage, job) for job in jobs]
        self._executor.tell(self._stage, [self._made[label] for label in labels if label in self._made])
        return [self._steps[label] for label in labels]

    def _make_shared(self, jobs: Sequence[Job]) -> list[Job]:
        """Make plans for ``jobs`` that targets may share; those are left for which that cannot be."""
        stage = self._stage
        if not isinstance(stage, Shareable):
            raise InternalError(f"stage {stage.name!r} cannot share")
        with ExitStack() as stack:
            missing = self._locked(jobs, stack)
            if not missing:
                return []
            label, begin = f"{stage.name} {_names(jobs)}", time.perf_counter()
            self._progress.begin(label)
            self._executor.check_corners(missing[0].work, self._state)
            workdir = stack.enter_context(self._store.workdir())
            first = missing[0].work
            try:
                with translate_os_errors(workdir, f"run {stage.name}", elsewhere=ELSEWHERE):
                    drafts = stage.run_together(
                        first.settings, first.inputs, workdir, first.job.runtime, self._progress
                    )
                    for draft in drafts:
                        stage.check(draft, first.inputs)
            except (OutOfTime, OutOfMemory) as error:  # one by one they would take as much
                self._progress.end(label, "failed")
                for each in missing:
                    self._fail(each, error, time.perf_counter() - begin)
                return []
            except StageError as error:
                self._progress.note(f"{label}: no plan for all of them, so each gets its own: {error.message}")
                return list(jobs)
            except BaseException:
                self._progress.end(label, "failed")
                raise
            made = {draft.target: draft for draft in drafts}
            seconds = (time.perf_counter() - begin) / len(made)
            left = []
            for each in missing:
                name = str(each.work.job.target)
                if name in made:
                    self._put(each, made[name], seconds)
                else:
                    left.append(each.work.job)
            self._progress.end(label, "built")
        return left

    def _make_alone(self, jobs: Sequence[Job]) -> None:
        """Make what is missing of ``jobs``, as many at once as there is room for."""
        with ExitStack() as stack:
            missing = self._locked(jobs, stack)
            if not missing:
                return
            self._progress.begin(f"{self._stage.name} {_names([each.work.job for each in missing])}")
            first = missing[0].work
            self._executor.check_corners(first, self._state)
            size = sum(artifact.size for artifact in first.inputs.artifacts.values())
            at_once = affordable(len(missing), size, first.job.runtime.jobs)
            folders = [stack.enter_context(self._store.workdir()) for _ in missing]
            tasks = [
                Task(str(each.work.job.target), self._work(each, folder, at_once < 2))
                for each, folder in zip(missing, folders, strict=True)
            ]
            outcomes = stack.enter_context(closing(run_tasks(tasks, at_once, self._progress)))
            for outcome in outcomes:  # on the way out children end first, then work folders and locks go
                self._take(missing[outcome.index], outcome)

    def _work(self, each: _Missing, workdir: Path, announce: bool) -> Callable[[Progress], Draft]:
        def work(progress: Progress) -> Draft:
            if announce:
                progress.begin(each.work.label)
            return each.work.run(workdir, progress)

        return work

    def _take(self, each: _Missing, outcome: TaskResult[Draft]) -> None:
        """Store what a target's build has made, or note how it failed."""
        label, error = each.work.label, outcome.error
        if outcome.result is not None:
            self._put(each, outcome.result, outcome.seconds)
            self._progress.end(label, "built")
            return
        self._progress.end(label, "failed")
        if not isinstance(error, StageError):
            raise error or InternalError(f"{label} made nothing")
        self._fail(each, error, outcome.seconds)

    def _fail(self, each: _Missing, error: StageError, seconds: float) -> None:
        label = each.work.label
        self.errors.append(error)
        if len(each.work.job.targets) > 1:  # a single target's error is raised in full
            self._progress.warn(f"{label}: {error.message} ({error.remedy})")
        self._steps[label] = Step(label, "failed", error.message, seconds=seconds, error=error)

    def _put(self, each: _Missing, draft: Draft, seconds: float) -> None:
        artifact = self._store.put(each.key, draft, seconds)
        self._state.add(artifact, each.key.digest)
        label = each.work.label
        self._made[label] = artifact, each.work.inputs
        self._steps[label] = Step(
            label, "built", each.because, artifact, each.key.digest, seconds, stored_under=each.key
        )

    def _locked(self, jobs: Sequence[Job], stack: ExitStack) -> list[_Missing]:
        """Those of ``jobs`` that are not in the store, their keys locked until ``stack`` is left."""
        missing = [each for job in jobs if (each := self._missing(job)) is not None]
        # One order for all runs, so that none waits in a ring.
        for each in sorted(missing, key=lambda each: each.key.digest):
            stack.enter_context(self._store.lock(each.key))
        return [each for each in missing if not self._find(each.work, each.key)]  # somebody may have built it meanwhile

    def _missing(self, job: Job) -> _Missing | None:
        work = self._executor.prepare(self._stage, job, self._state)
        if work.key is None:
            raise InternalError(f"{work.label} has no key")
        return None if self._find(work, work.key) else _Missing(work, work.key, self._executor.because(work))

    def _find(self, work: Prepared, key: Key) -> bool:
        begin = time.perf_counter()
        artifact = self._store.lookup(key)
        if artifact is None:
            return False
        step = self._executor.found(work, self._state, artifact, key, begin)
        self._progress.begin(step.label)
        self._progress.end(step.label, "hit")
        self._steps[step.label] = step
        self._made[step.label] = artifact, work.inputs
        return True


def _names(jobs: Sequence[Job]) -> str:
    return ", ".join(str(job.target) for job in jobs)
