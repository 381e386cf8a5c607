"""The pipeline: which stages there are, in which order, and how artifacts flow between them and the store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trtpipe.artifact import Artifact, FileEntry
from trtpipe.errors import InputError, StageError, TrtpipeError
from trtpipe.job import Inputs, Job
from trtpipe.oserrors import translate_os_errors
from trtpipe.progress import Progress
from trtpipe.stages.bundle import Bundle
from trtpipe.stages.calibrate import Calibrate
from trtpipe.stages.compile import Compile
from trtpipe.stages.corners import check_corners
from trtpipe.stages.export import Export
from trtpipe.stages.export_program import Capture
from trtpipe.stages.export_reference import Reference
from trtpipe.stages.lower import Lower
from trtpipe.stages.measure import Measure
from trtpipe.stages.observe import Observe
from trtpipe.stages.proving import RUNNING, prove
from trtpipe.stages.simplify import Simplify
from trtpipe.stages.stage import Resumable
from trtpipe.stages.verify import Verify
from trtpipe.store import ArtifactStore, Key
from trtpipe.table import GRAPHS, Table, artifact_from_file, with_shapes
from trtpipe.toolchain import versions

if TYPE_CHECKING:
    from trtpipe.calibration.dataset import Dataset
    from trtpipe.source import Memory
    from trtpipe.stages.stage import Stage

#: The pipeline, from source to bundle.
STAGES: tuple[Stage, ...] = (
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


class Pipeline:
    """Runs stages of one job against one store."""

    def __init__(self, job: Job, store: ArtifactStore, progress: Progress) -> None:
        self._job = job
        self._store = store
        self._progress = progress

    @property
    def memory(self) -> Memory:
        """Small facts that outlive a run, for work that is done in pieces."""
        return self._store

    def run(self, stages: tuple[Stage, ...], given: Mapping[str, Artifact]) -> tuple[Step, ...]:
        """Make every artifact that ``stages`` produce.

        One failing target does not lose the others: its step is ``failed`` and the rest goes on; if all targets of a
        stage fail, the first error is raised.

        Args:
            stages: in pipeline order.
            given: artifacts the user supplies, by label.

        Raises:
            TrtpipeError: a stage failed.
        """
        graphs = {label for label in given if label in GRAPHS}
        table = Table(dict(given), complete_shapes=_makes_engines(stages), unproven=graphs)
        steps: list[Step] = []
        for stage in stages:
            errors: list[TrtpipeError] = []
            made = list(self._run_stage(stage, table, errors))
            if errors and len(errors) == len(made):
                raise errors[0]
            steps += made
        return tuple(steps)

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
                with translate_os_errors(folder, f"copy {path}", elsewhere="choose another cache with --cache-dir"):
                    artifacts[label] = artifact_from_file(kind, path, target or None, seal_in=seal_in)
            yield artifacts

    def plan(self, stages: tuple[Stage, ...], given: Mapping[str, Artifact]) -> tuple[Step, ...]:
        """What ``run`` would do, as far as it can be told without doing it."""
        table = Table(dict(given), complete_shapes=_makes_engines(stages))
        return tuple(step for stage in stages for step in self._plan_stage(stage, table))

    def _run_stage(self, stage: Stage, table: Table, errors: list[TrtpipeError]) -> Iterator[Step]:
        if reason := stage.skip(self._job):
            yield Step(stage.name, "skipped", reason)
            return
        self._job = with_shapes(self._job, table, self._progress)
        for job in _variants(stage, self._job):
            label = _label(stage, job)
            self._progress.begin(label)
            begin = time.perf_counter()
            try:
                step = self._make(stage, job, table, begin)
            except StageError as error:
                self._progress.end(label, "failed")
                if job.target is None:
                    raise
                errors.append(error)
                if len(self._job.targets) > 1:  # a single target's error is raised in full
                    self._progress.warn(f"{label}: {error.message} ({error.remedy})")
                step = Step(label, "failed", error.message, seconds=time.perf_counter() - begin)
            except BaseException:
                self._progress.end(label, "failed")
                raise
            else:
                self._progress.end(label, step.state)
            yield step

    def _make(self, stage: Stage, job: Job, table: Table, begin: float) -> Step:
        inputs = self._inputs(stage, job, table)
        source = self._source_digest(stage, job)
        key = None
        if source is not None:
            inputs = replace(inputs, source=source)
            key = self._key(stage, job, inputs, source)
            if artifact := self._store.lookup(key):
                return self._found(stage, job, table, artifact, key, begin)
        because = self._because(key)
        if key is None:  # what a PyTorch factory reads is known only after it has run
            with self._store.workdir() as workdir:
                return self._build(stage, job, inputs, table, None, workdir, because, begin)
        with self._store.lock(key):
            if artifact := self._store.lookup(key):
                return self._found(stage, job, table, artifact, key, begin)
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
            for label in sorted(table.unproven & inputs.artifacts.keys()) if stage.name in RUNNING else ():
                prove(inputs.artifacts[label], job, workdir, self._progress)
                table.unproven.discard(label)
            self._check_corners(stage, job, inputs, table, workdir)
            draft, read = stage.run(job, inputs, workdir, self._progress)
            stage.check(draft, inputs)
        if key is None:
            assert job.source is not None
            learned = job.source.learn(self._store, read, FileEntry.of(draft.path).sha256)
            key = self._key(stage, job, inputs, learned)
        artifact = self._store.put(key, draft, time.perf_counter() - begin)
        table.lay_down(artifact, key.digest)
        return Step(_label(stage, job), "built", because, artifact, key.digest, time.perf_counter() - begin)

    def _check_corners(self, stage: Stage, job: Job, inputs: Inputs, table: Table, workdir: Path) -> None:
        """Complain about shapes at which the model cannot work before the first long stage, once in a run."""
        graph = next((inputs.artifacts[kind] for kind in ("simplified", "lowered") if kind in inputs.artifacts), None)
        if table.complete_shapes and graph is not None and job.profile.shapes and not table.corners_checked:
            check_corners(graph, job, workdir, self._progress)
            table.corners_checked = True

    def _found(self, stage: Stage, job: Job, table: Table, artifact: Artifact, key: Key, begin: float) -> Step:
        table.lay_down(artifact, key.digest)
        return Step(_label(stage, job), "hit", "nothing changed", artifact, key.digest, time.perf_counter() - begin)

    def _plan_stage(self, stage: Stage, table: Table) -> Iterator[Step]:
        if reason := stage.skip(self._job):
            yield Step(stage.name, "skipped", reason)
            return
        self._job = with_shapes(self._job, table, self._progress)
        for job in _variants(stage, self._job):
            label = _label(stage, job)
            if waits := sorted(set(stage.consumes(job)) & table.unknown):
                table.unknown.add(stage.produces)
                yield Step(label, "undecided", f"depends on {', '.join(waits)}")
                continue
            inputs = self._inputs(stage, job, table)
            source = self._source_digest(stage, job)
            key = None if source is None else self._key(stage, job, inputs, source)
            artifact = None if key is None or self._store.peek(key) is None else self._store.lookup(key)
            if key is not None and artifact is not None:
                yield self._found(stage, job, table, artifact, key, time.perf_counter())
            else:
                table.unknown.add(stage.produces)
                yield Step(label, "to build", self._because(key), key="" if key is None else key.digest)

    def _because(self, key: Key | None) -> str:
        if key is None:
            return "the source was never seen, or changed"
        different = self._store.nearest(key)
        return "never built before" if different is None else f"changed: {', '.join(different[:4])}"

    def _key(self, stage: Stage, job: Job, inputs: Inputs, source: str) -> Key:
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

    def _source_digest(self, stage: Stage, job: Job) -> str | None:
        """Identity of the source, ``""`` for a stage that has none, ``None`` where only running it can tell."""
        if "source" not in stage.consumes(job):
            return ""
        if job.source is None:
            raise InputError("no source was given", "name an .onnx file, a .pt2 file or a factory")
        return job.source.digest(self._store)

    def _inputs(self, stage: Stage, job: Job, table: Table) -> Inputs:
        wanted = stage.consumes(job)
        artifacts = {label: a for label, a in table.artifacts.items() if label in wanted or a.kind in wanted}
        table.check_profile(self._job)
        roles: list[str] = [role for role in ("calibration-data", "evaluation-data") if role in wanted]
        datasets: dict[str, Dataset] = {
            role: data for role in roles if (data := table.dataset(role, self._job)) is not None
        }
        return Inputs(artifacts, datasets, {label: table.keys[label] for label in artifacts if label in table.keys})


def stages_for(job: Job) -> tuple[Stage, ...]:
    """The pipeline for a job: without the stages that only PyTorch sources need, where there is none for them."""
    return tuple(stage for stage in STAGES if not (stage.produces in _PYTORCH and stage.skip(job)))


def stages_named(*names: str) -> tuple[Stage, ...]:
    """The stages called ``names``, in pipeline order."""
    return tuple(stage for stage in STAGES if stage.name in names)


@contextmanager
def opened(job: Job, progress: Progress) -> Iterator[Pipeline]:
    """A pipeline over the user's store."""
    with ArtifactStore(job.settings.cache_dir, progress) as store:
        yield Pipeline(job, store, progress)


def _variants(stage: Stage, job: Job) -> tuple[Job, ...]:
    if stage.produces != "engine":
        return (job,)
    if not job.targets:
        raise StageError("no target to compile for", "add --target, for example --target sm89")
    return tuple(job.for_target(target) for target in job.targets)


def _makes_engines(stages: tuple[Stage, ...]) -> bool:
    return any(stage.produces == "engine" for stage in stages)


def _label(stage: Stage, job: Job) -> str:
    return stage.name if job.target is None else f"{stage.name} {job.target}"
