"""Making artifacts of one job against one store: the inputs and the key of each, and what is there already."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trtpipe.artifact import Artifact, FileEntry, Record
from trtpipe.backends.base import load_backend
from trtpipe.config.build_request import NotNeeded
from trtpipe.config.job import Job
from trtpipe.config.os_errors import translate_os_errors
from trtpipe.config.plugins import plugin_digests, plugin_paths
from trtpipe.config.source import MetricSource
from trtpipe.config.toolchain import versions
from trtpipe.data.sample import Sample, content_digests
from trtpipe.digest import sha256_json
from trtpipe.dynamic.check_corners import check_corners
from trtpipe.errors import BuildError, InputError, InternalError
from trtpipe.isolation.linux import release_memory
from trtpipe.report.verdict import Failure
from trtpipe.stages.stage import FAILURES, FIRST_SAMPLES, METRIC, PLUGINS, SAMPLES, SOURCE, Inputs, Noting, Resumable
from trtpipe.store import ArtifactStore, Key
from trtpipe.summary import Summarized, Summary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtpipe.artifact import Draft
    from trtpipe.data.dataset import Dataset
    from trtpipe.errors import TrtpipeError
    from trtpipe.pipeline.run_state import RunState
    from trtpipe.progress import Progress
    from trtpipe.stages.stage import Stage

#: Where to work when the disk of the store is full or broken.
ELSEWHERE = "choose another cache with --cache-dir"
#: What decodes image files into pixels.
_DECODERS = ("pillow",)
#: The folders of an absolute path.
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^/\s:'\"]+/)+")
State = Literal["hit", "built", "skipped", "failed", "to build", "undecided"]


@dataclass(frozen=True, repr=False)
class Step(Summarized):
    """What became, or would become, of one stage (of one target, for compile).

    Attributes:
        label: the stage's name, with the target where there is one.
        state: ``hit`` (came from the store), ``built``, ``skipped``, ``failed``; in a plan also ``to build`` and
            ``undecided`` (depends on a step that has to be built first).
        because: why it is in this state.
        key: digest of its artifact's key.
        stored_under: that key, where the store has the artifact.
        seconds: what it took now.
        error: why it failed.
    """

    label: str
    state: State
    because: str = ""
    artifact: Artifact | None = None
    key: str = ""
    seconds: float = 0.0
    error: TrtpipeError | None = None
    stored_under: Key | None = None

    @property
    def summary(self) -> Summary:
        """The stage, and what became of it."""
        return Summary(f"{self.label}: {self.state}{f' ({self.because})' if self.because else ''}")


@dataclass(frozen=True)
class Prepared:
    """A stage with all that it works on; ``key`` is ``None`` where only running it can tell."""

    stage: Stage[Any]
    job: Job
    settings: Record
    inputs: Inputs
    key: Key | None

    @property
    def label(self) -> str:
        return label_of(self.stage, self.job)

    def run(self, workdir: Path, progress: Progress) -> Draft:
        """Run the stage and check what it made; see ``Stage.run``."""
        with translate_os_errors(workdir, f"run {self.stage.name}", elsewhere=ELSEWHERE):
            draft = self.stage.run(self.settings, self.inputs, workdir, self.job.runtime, progress)
            self.stage.check(draft, self.inputs)
        read = (artifact.size for artifact in self.inputs.artifacts.values())
        release_memory(max((draft.folder / name).stat().st_size for name in draft.names) + max(read, default=0))
        return draft


class Executor:
    """What stages of one job need from the store, and give to it."""

    def __init__(self, job: Job, store: ArtifactStore, progress: Progress) -> None:
        self._job = job
        self._store = store
        self._progress = progress

    def make(self, stage: Stage[Any], job: Job, state: RunState, begin: float) -> Step:
        """The artifact of one stage: from the store, or made now.

        Raises:
            TrtpipeError: the stage failed.
        """
        prepared = self.prepare(stage, job, state)
        key = prepared.key
        if key is not None and (artifact := self._store.lookup(key)):
            return self.found(prepared, state, artifact, key, begin)
        because = self.because(prepared)
        if key is None:  # what the user's code reads is known only after it has run
            with self._store.workdir() as workdir:
                return self._build(prepared, state, workdir, because, begin)
        with self._store.lock(key):
            if artifact := self._store.lookup(key):
                return self.found(prepared, state, artifact, key, begin)
            resumes = isinstance(stage, Resumable)
            with self._store.resumable(key) if resumes else self._store.workdir() as workdir:
                return self._build(prepared, state, workdir, because, begin)

    def _build(self, prepared: Prepared, state: RunState, workdir: Path, because: str, begin: float) -> Step:
        self.ask_parser(prepared, state)
        self.check_corners(prepared, state)
        draft = prepared.run(workdir, self._progress)
        key = self._learned(prepared, draft, state)
        artifact = self._store.put(key, draft, time.perf_counter() - begin)
        state.add(artifact, key.digest)
        self._tell_of(prepared, artifact)
        seconds = time.perf_counter() - begin
        return Step(prepared.label, "built", because, artifact, key.digest, seconds, stored_under=key)

    def _learned(self, prepared: Prepared, draft: Draft, state: RunState) -> Key:
        """The key of what was made, now that user code has run: a metric may have read other files than before."""
        inputs, made = prepared.inputs, FileEntry.of(draft.path).sha256
        if prepared.key is None and inputs.source is not None:
            inputs = replace(inputs, source_digest=inputs.source.learn(self._store, draft.observed, made))
        elif inputs.metric:
            learned = MetricSource(inputs.metric).learn(self._store, draft.observed, made)
            inputs = replace(inputs, metric_digest=learned)
        elif prepared.key is not None:
            return prepared.key
        label = inputs.metric if inputs.source is None else inputs.source.label
        if draft.observed.unseen and label not in state.run_again:
            state.run_again.add(label)
            self._progress.note(
                f"{label} uses {', '.join(draft.observed.unseen)}, so nothing tells whether its result is "
                "still the same: it runs again in every build"
            )
        return self._key(prepared.stage, prepared.job, prepared.settings, inputs)

    def _tell_of(self, prepared: Prepared, artifact: Artifact) -> None:
        if prepared.job.target is None:  # what is made for several targets is told once, of all of them
            self.tell(prepared.stage, [(artifact, prepared.inputs)])

    def tell(self, stage: Stage[Any], made: Iterable[tuple[Artifact, Inputs]]) -> None:
        """Say what users should hear of artifacts; a sentence about several targets once, with their names."""
        if not isinstance(stage, Noting):
            return
        made = tuple(made)
        for say, sentences in ((self._progress.warn, stage.warnings), (self._progress.note, stage.notes)):
            targets: dict[str, list[str]] = {}
            for artifact, inputs in made:
                for sentence in sentences(artifact, inputs):
                    targets.setdefault(sentence, []).append(artifact.target or "")
            for sentence, names in targets.items():
                say(f"{', '.join(names)}: {sentence}".removeprefix(": "))

    def ask_parser(self, prepared: Prepared, state: RunState) -> None:
        """Ask the back-end's parser about a graph before calibration data is read, once a graph; see ``Backend``.

        Raises:
            BuildError: it refuses nodes.
        """
        graph, job = prepared.inputs.artifacts.get("simplified"), prepared.job
        if graph is None or not state.complete_shapes or not job.targets or graph.digest in state.parsed:
            return
        state.parsed.add(graph.digest)
        self._progress.advance("parser", 0, None)
        refusal = load_backend(job.backend).refuses_nodes(graph.path, job.profile, job.runtime)
        if refusal is not None:
            raise BuildError(refusal.reason, refusal.remedy)

    def check_corners(self, prepared: Prepared, state: RunState) -> None:
        """Complain about shapes at which the model cannot work before the first long stage, once in a run.

        Raises:
            InputError: there are such shapes.
        """
        artifacts, shapes = prepared.inputs.artifacts, prepared.job.profile.shapes
        graph = next((artifacts[kind] for kind in ("simplified", "lowered") if kind in artifacts), None)
        if state.complete_shapes and graph is not None and shapes and not state.corners_checked:
            check_corners(graph, shapes, prepared.job.runtime, self._progress)
            state.corners_checked = True

    def found(self, prepared: Prepared, state: RunState, artifact: Artifact, key: Key, begin: float) -> Step:
        """The step of an artifact that the store has."""
        state.add(artifact, key.digest)
        self._tell_of(prepared, artifact)
        seconds = time.perf_counter() - begin
        return Step(prepared.label, "hit", "nothing changed", artifact, key.digest, seconds, stored_under=key)

    def because(self, prepared: Prepared) -> str:
        """Why the store has no artifact for its key."""
        if prepared.key is None:
            code = "source" if prepared.inputs.metric == "" else "metric"
            return f"the {code} was never seen, or changed"
        different = self._store.nearest(prepared.key)
        return "never built before" if different is None else f"changed: {', '.join(different[:4])}"

    def prepare(self, stage: Stage[Any], job: Job, state: RunState) -> Prepared:
        """The settings of ``stage``, what it needs of what the run holds, and the key of what it makes of them.

        Raises:
            InputError: shapes, tolerances or data do not fit the model; or something that the user named is not there.
        """
        settings = _settings(stage, job)
        wanted = stage.consumes(settings)
        state.check_profile(self._job)
        inputs = self._inputs(wanted, job, state)
        digest: str | None = ""
        if inputs.metric:
            digest = MetricSource(inputs.metric).digest(self._store)
            inputs = replace(inputs, metric_digest=digest or "")
        if SOURCE in wanted:
            if job.source is None:
                raise InputError("no source was given", "name an .onnx file, a .pt2 file or a factory")
            digest = job.source.digest(self._store)
            inputs = replace(inputs, source=job.source, source_digest=digest or "")
        key = None if digest is None else self._key(stage, job, settings, inputs)
        return Prepared(stage, job, settings, inputs, key)

    def _inputs(self, wanted: tuple[str, ...], job: Job, state: RunState) -> Inputs:
        artifacts = {label: a for label, a in state.artifacts.items() if label in wanted or a.kind in wanted}
        datasets: dict[str, Dataset] = {}
        for role in ("evaluation-data", "calibration-data"):
            sought = role in wanted or (SAMPLES in wanted and not datasets)
            if sought and (data := state.dataset(role, self._job)) is not None:
                datasets[role] = data
        first = state.first_samples(self._job) if FIRST_SAMPLES in wanted else ()
        keys = {label: state.keys[label] for label in artifacts if label in state.keys}
        failures = state.failures if FAILURES in wanted else ()
        return replace(
            brought(job, wanted),
            artifacts=artifacts,
            datasets=datasets,
            keys=keys,
            first_samples=first,
            failures=tuple(failures),
        )

    def _key(self, stage: Stage[Any], job: Job, settings: Record, inputs: Inputs) -> Key:
        return Key(
            stage=stage.name,
            stage_version=stage.version,
            target=None if job.target is None else job.target.name,
            inputs=input_digests(job, inputs),
            settings=settings.to_dict(),
            toolchain=versions(stage.packages),
            backend=stage.fingerprint(settings, job.runtime),
        )


def prepared_without_store(stage: Stage[Any], job: Job, given: Inputs) -> Prepared:
    """A stage prepared outside of a store, with what is ``given`` and what the job's user brings."""
    settings = _settings(stage, job)
    code = brought(job, stage.consumes(settings))
    inputs = replace(given, source=code.source, plugins=code.plugins, metric=code.metric)
    return Prepared(stage, job, settings, inputs, None)


def _settings(stage: Stage[Any], job: Job) -> Record:
    settings = stage.settings(job)
    if isinstance(settings, NotNeeded):
        raise InternalError(f"{stage.name} was to be made, but {settings.reason}")
    assert isinstance(settings, Record)
    return settings


def brought(job: Job, wanted: tuple[str, ...]) -> Inputs:
    """What the user brings besides artifacts and data, of what is ``wanted``.

    Raises:
        InputError: a plug-in library does not exist.
    """
    evaluation = job.recipe.evaluation
    return Inputs(
        source=job.source if SOURCE in wanted else None,
        plugins=plugin_paths(job.profile.build) if PLUGINS in wanted else (),
        metric=evaluation.metric if METRIC in wanted and evaluation is not None and evaluation.own else "",
        labels_count=METRIC in wanted and evaluation is not None,
    )


def input_digests(job: Job, inputs: Inputs) -> dict[str, str]:
    """Label -> digest of the content of everything that is consumed."""
    digests = {label: artifact.digest for label, artifact in inputs.artifacts.items()}
    for role, dataset in inputs.datasets.items():
        settings = job.recipe.evaluation if role == "evaluation-data" else job.recipe.data
        image = None if dataset.preprocessing is None else dataset.preprocessing.to_dict()
        # The digest of the content does not tell how samples travel, nor how they were chosen, which is reported;
        # that of image files not how they are decoded, nor how many may be broken.
        how = {
            "batch": 1 if settings is None else settings.batch,
            "seed": dataset.seed,
            "image": image,
            "decoder": {} if image is None else versions(_DECODERS),
            "bad": 0 if settings is None else settings.skip_bad_samples,
        }
        content = dataset.digests()
        labels, classes = (content.labels, list(dataset.classes)) if inputs.labels_count else ("", [])
        digests[role] = sha256_json({"content": content.inputs, "labels": labels, "classes": classes, **how})
    if inputs.first_samples:
        digests[FIRST_SAMPLES] = content_digests(map(Sample, inputs.first_samples)).inputs
    if inputs.source is not None:
        digests[SOURCE] = inputs.source_digest
    if inputs.plugins:
        digests[PLUGINS] = sha256_json(list(plugin_digests(job.profile.build).values()))
    if inputs.failures:
        digests[FAILURES] = sha256_json([failure.to_dict() for failure in inputs.failures])
    if inputs.metric:
        digests[METRIC] = inputs.metric_digest
    return digests


def failures_of(steps: Iterable[Step]) -> tuple[Failure, ...]:
    """The steps that failed, for the record, which names no folder of this machine."""
    return tuple(
        Failure(step=step.label, reason=_FOLDERS.sub(_without_folders, step.because), exit_code=step.error.exit_code)
        for step in steps
        if step.error is not None
    )


def _without_folders(found: re.Match[str]) -> str:
    """Nothing, where these are folders; names of nodes look like that too."""
    first = Path("/", *Path(found[0]).parts[1:3])
    return "" if first.is_dir() else found[0]


def label_of(stage: Stage[Any], job: Job) -> str:
    """The stage's name, with the target where there is one."""
    return stage.name if job.target is None else f"{stage.name} {job.target}"
