"""Making artifacts of one job against one store: the inputs and the key of each, and what is there already."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trtpipe.artifact import Artifact, FileEntry
from trtpipe.config.job import ROLES, Job
from trtpipe.config.os_errors import translate_os_errors
from trtpipe.config.toolchain import versions
from trtpipe.dynamic.check_corners import check_corners
from trtpipe.errors import InputError
from trtpipe.stages.stage import Inputs, Resumable
from trtpipe.store import ArtifactStore, Key

if TYPE_CHECKING:
    from trtpipe.data.dataset import Dataset
    from trtpipe.pipeline.run_state import Table
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Stage

State = Literal["hit", "built", "skipped", "failed", "to build", "undecided"]


@dataclass(frozen=True)
class Step:
    """What became, or would become, of one stage (of one target, for compile).

    Attributes:
        label: the stage's name, with the target where there is one.
        state: ``hit`` (came from the store), ``built``, ``skipped``, ``failed``; in a plan also ``to build`` and
            ``undecided`` (depends on a step that has to be built first).
        because: why.
        artifact: the result, if there is one.
        key: digest of its key.
        seconds: what it took now.
    """

    label: str
    state: State
    because: str = ""
    artifact: Artifact | None = None
    key: str = ""
    seconds: float = 0.0


class Maker:
    """What stages of one job need from the store, and give to it."""

    def __init__(self, job: Job, store: ArtifactStore, progress: Progress) -> None:
        self._job = job
        self._store = store
        self._progress = progress

    def make(self, stage: Stage, job: Job, table: Table, begin: float) -> Step:
        """The artifact of one stage: from the store, or made now.

        Raises:
            TrtpipeError: the stage failed.
        """
        inputs = self.inputs(stage, job, table)
        source = self.source_digest(stage, job)
        key = None
        if source is not None:
            inputs = replace(inputs, source=source)
            key = self.key(stage, job, inputs, source)
            if artifact := self._store.lookup(key):
                return self.found(stage, job, table, artifact, key, begin)
        because = self.because(key)
        if key is None:  # what a PyTorch factory reads is known only after it has run
            with self._store.workdir() as workdir:
                return self._build(stage, job, inputs, table, None, workdir, because, begin)
        with self._store.lock(key):
            if artifact := self._store.lookup(key):
                return self.found(stage, job, table, artifact, key, begin)
            resumes = isinstance(stage, Resumable)
            with self._store.resumable(key) if resumes else self._store.workdir() as workdir:
                return self._build(stage, job, inputs, table, key, workdir, because, begin)

    def _build(
        self,
        stage: Stage,
        job: Job,
        inputs: Inputs,
        table: Table,
        key: Key | None,
        workdir: Path,
        because: str,
        begin: float,
    ) -> Step:
        with translate_os_errors(workdir, f"run {stage.name}", elsewhere="choose another cache with --cache-dir"):
            self.check_corners(job, inputs, table)
            draft, read = stage.run(job, inputs, workdir, self._progress)
            stage.check(draft, inputs)
        if key is None:
            assert job.source is not None
            learned = job.source.learn(self._store, read, FileEntry.of(draft.path).sha256)
            key = self.key(stage, job, inputs, learned)
        artifact = self._store.put(key, draft, time.perf_counter() - begin)
        table.lay_down(artifact, key.digest)
        return Step(label_of(stage, job), "built", because, artifact, key.digest, time.perf_counter() - begin)

    def check_corners(self, job: Job, inputs: Inputs, table: Table) -> None:
        """Complain about shapes at which the model cannot work before the first long stage, once in a run.

        Raises:
            InputError: there are such shapes.
        """
        graph = next((inputs.artifacts[kind] for kind in ("simplified", "lowered") if kind in inputs.artifacts), None)
        if table.complete_shapes and graph is not None and job.profile.shapes and not table.corners_checked:
            check_corners(graph, job, self._progress)
            table.corners_checked = True

    def found(self, stage: Stage, job: Job, table: Table, artifact: Artifact, key: Key, begin: float) -> Step:
        """The step of an artifact that the store has."""
        table.lay_down(artifact, key.digest)
        return Step(label_of(stage, job), "hit", "nothing changed", artifact, key.digest, time.perf_counter() - begin)

    def because(self, key: Key | None) -> str:
        """Why the store has no artifact for ``key``."""
        if key is None:
            return "the source was never seen, or changed"
        different = self._store.nearest(key)
        return "never built before" if different is None else f"changed: {', '.join(different[:4])}"

    def key(self, stage: Stage, job: Job, inputs: Inputs, source: str) -> Key:
        """The key of the artifact that ``stage`` makes of ``inputs``; ``source`` is the source's digest, or empty."""
        digests = {label: artifact.digest for label, artifact in inputs.artifacts.items()}
        digests |= {role: dataset.digest() for role, dataset in inputs.datasets.items()}
        if source:
            digests["source"] = source
        settings = stage.key(job)
        assert isinstance(settings, dict)
        return Key(
            stage=stage.name,
            stage_version=stage.version,
            target=None if job.target is None else job.target.name,
            inputs=digests,
            settings=settings,
            toolchain=versions(stage.packages),
            backend=stage.fingerprint(job),
        )

    def source_digest(self, stage: Stage, job: Job) -> str | None:
        """Identity of the source, ``""`` for a stage that has none, ``None`` where only running it can tell."""
        if "source" not in stage.consumes(job):
            return ""
        if job.source is None:
            raise InputError("no source was given", "name an .onnx file, a .pt2 file or a factory")
        return job.source.digest(self._store)

    def inputs(self, stage: Stage, job: Job, table: Table) -> Inputs:
        """What ``stage`` needs of what is on the table.

        Raises:
            InputError: shapes, tolerances or data do not fit the model.
        """
        wanted = stage.consumes(job)
        artifacts = {label: a for label, a in table.artifacts.items() if label in wanted or a.kind in wanted}
        table.check_profile(self._job)
        roles = [role for role in ROLES if role in wanted]
        datasets: dict[str, Dataset] = {
            role: data for role in roles if (data := table.dataset(role, self._job)) is not None
        }
        return Inputs(artifacts, datasets, {label: table.keys[label] for label in artifacts if label in table.keys})


def label_of(stage: Stage, job: Job) -> str:
    """The stage's name, with the target where there is one."""
    return stage.name if job.target is None else f"{stage.name} {job.target}"
