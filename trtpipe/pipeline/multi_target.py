"""The engines of one run: several targets from one plan where they can share it, and otherwise side by side."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trtpipe.config.os_errors import translate_os_errors
from trtpipe.errors import InternalError, OutOfMemory, OutOfTime, StageError
from trtpipe.isolation.thread_pool import Task, run_tasks
from trtpipe.isolation.worker import affordable
from trtpipe.pipeline.executor import Maker, Step, label_of
from trtpipe.stages.stage import Shareable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trtpipe.artifact import Draft
    from trtpipe.config.job import Job
    from trtpipe.isolation.thread_pool import Outcome
    from trtpipe.pipeline.run_state import Table
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Inputs, Stage
    from trtpipe.store import ArtifactStore, Key

_ELSEWHERE = "choose another cache with --cache-dir"


@dataclass(frozen=True)
class _Missing:
    """An engine that has to be built."""

    job: Job
    inputs: Inputs
    key: Key
    because: str


class Fanout:
    """Makes one artifact of a stage for every target; one target that fails does not lose the others.

    Attributes:
        errors: why targets failed, in the order they did.
    """

    def __init__(self, maker: Maker, store: ArtifactStore, progress: Progress, stage: Stage, table: Table) -> None:
        self._maker = maker
        self._store = store
        self._progress = progress
        self._stage = stage
        self._table = table
        self._steps: dict[str, Step] = {}
        self.errors: list[StageError] = []

    def run(self, jobs: Sequence[Job]) -> list[Step]:
        """One step for each of ``jobs``, in their order.

        Raises:
            TrtpipeError: what is no fault of a target.
        """
        shared = [job for job in jobs if job.together]
        if shared and not self._make_shared(shared):
            jobs = [replace(job, together=()) for job in jobs]
        self._make_alone([job for job in jobs if not job.together])
        return [self._steps[label_of(self._stage, job)] for job in jobs]

    def _make_shared(self, jobs: Sequence[Job]) -> bool:
        """Make one plan for all of ``jobs``; false if that cannot be."""
        stage = self._stage
        if not isinstance(stage, Shareable):
            raise InternalError(f"stage {stage.name!r} cannot share")
        with ExitStack() as stack:
            missing = self._locked(jobs, stack)
            if not missing:
                return True
            label, begin = f"{stage.name} {_names(jobs)}", time.perf_counter()
            self._progress.begin(label)
            self._maker.check_corners(missing[0].job, missing[0].inputs, self._table)
            workdir = stack.enter_context(self._store.workdir())
            first = missing[0]
            try:
                with translate_os_errors(workdir, f"run {stage.name}", elsewhere=_ELSEWHERE):
                    drafts = stage.run_together(first.job, first.inputs, workdir, self._progress)
                    for draft in drafts:
                        stage.check(draft, first.inputs)
            except (OutOfTime, OutOfMemory) as error:  # one by one they would take as much
                self._progress.end(label, "failed")
                for each in missing:
                    self._fail(each, error, time.perf_counter() - begin)
                return True
            except StageError as error:
                self._progress.note(f"{label}: no plan for all of them, so each gets its own: {error.message}")
                return False
            except BaseException:
                self._progress.end(label, "failed")
                raise
            made = {draft.target: draft for draft in drafts}
            seconds = (time.perf_counter() - begin) / len(made)
            for each in missing:
                assert each.job.target is not None
                self._put(each, made[each.job.target.name], seconds)
            self._progress.end(label, "built")
        return True

    def _make_alone(self, jobs: Sequence[Job]) -> None:
        """Make what is missing of ``jobs``, as many at once as there is room for."""
        with ExitStack() as stack:
            missing = self._locked(jobs, stack)
            if not missing:
                return
            self._progress.begin(f"{self._stage.name} {_names([each.job for each in missing])}")
            self._maker.check_corners(missing[0].job, missing[0].inputs, self._table)
            size = sum(artifact.size for artifact in missing[0].inputs.artifacts.values())
            at_once = affordable(len(missing), size, missing[0].job.settings.jobs)
            tasks = [
                Task(str(each.job.target), self._work(each, stack.enter_context(self._store.workdir()), at_once < 2))
                for each in missing
            ]
            outcomes = stack.enter_context(closing(run_tasks(tasks, at_once, self._progress)))
            for outcome in outcomes:  # on the way out children end first, then work folders and locks go
                self._take(missing[outcome.index], outcome)

    def _work(self, each: _Missing, workdir: Path, announce: bool) -> Callable[[Progress], Draft]:
        def work(progress: Progress) -> Draft:
            if announce:
                progress.begin(label_of(self._stage, each.job))
            with translate_os_errors(workdir, f"run {self._stage.name}", elsewhere=_ELSEWHERE):
                draft, _ = self._stage.run(each.job, each.inputs, workdir, progress)
                self._stage.check(draft, each.inputs)
            return draft

        return work

    def _take(self, each: _Missing, outcome: Outcome[Draft]) -> None:
        """Store what a target's build has made, or note how it failed."""
        label, error = label_of(self._stage, each.job), outcome.error
        if outcome.result is not None:
            self._put(each, outcome.result, outcome.seconds)
            self._progress.end(label, "built")
            return
        self._progress.end(label, "failed")
        if not isinstance(error, StageError):
            raise error or InternalError(f"{label} made nothing")
        self._fail(each, error, outcome.seconds)

    def _fail(self, each: _Missing, error: StageError, seconds: float) -> None:
        label = label_of(self._stage, each.job)
        self.errors.append(error)
        if len(each.job.targets) > 1:  # a single target's error is raised in full
            self._progress.warn(f"{label}: {error.message} ({error.remedy})")
        self._steps[label] = Step(label, "failed", error.message, seconds=seconds)

    def _put(self, each: _Missing, draft: Draft, seconds: float) -> None:
        artifact = self._store.put(each.key, draft, seconds)
        self._table.lay_down(artifact, each.key.digest)
        label = label_of(self._stage, each.job)
        self._steps[label] = Step(label, "built", each.because, artifact, each.key.digest, seconds)

    def _locked(self, jobs: Sequence[Job], stack: ExitStack) -> list[_Missing]:
        """Those of ``jobs`` that are not in the store, their keys locked until ``stack`` is left."""
        missing = [each for job in jobs if (each := self._missing(job)) is not None]
        # One order for all runs, so that none waits in a ring.
        for each in sorted(missing, key=lambda each: each.key.digest):
            stack.enter_context(self._store.lock(each.key))
        return [each for each in missing if not self._find(each.job, each.key)]  # somebody may have built it meanwhile

    def _missing(self, job: Job) -> _Missing | None:
        inputs = self._maker.inputs(self._stage, job, self._table)
        key = self._maker.key(self._stage, job, inputs, "")
        return None if self._find(job, key) else _Missing(job, inputs, key, self._maker.because(key))

    def _find(self, job: Job, key: Key) -> bool:
        begin = time.perf_counter()
        artifact = self._store.lookup(key)
        if artifact is None:
            return False
        step = self._maker.found(self._stage, job, self._table, artifact, key, begin)
        self._progress.begin(step.label)
        self._progress.end(step.label, "hit")
        self._steps[step.label] = step
        return True


def _names(jobs: Sequence[Job]) -> str:
    return ", ".join(str(job.target) for job in jobs)
