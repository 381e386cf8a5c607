"""Running stages and publishing what they made: what every public function does with its job."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trtpipe.api.settings_files import profile_toml, recipe_toml
from trtpipe.artifact import Artifact, FileEntry
from trtpipe.config.paths import folder_of, is_file_name
from trtpipe.config.source import FactorySource, OnnxSource, Pt2Source
from trtpipe.errors import InputError, StageError, TrtpipeError
from trtpipe.pipeline.executor import failures_of
from trtpipe.pipeline.pipeline import Step, opened, stages_named
from trtpipe.pipeline.publish import check_writable, publish_file, publish_folder, write_file
from trtpipe.progress import NullProgress, Progress
from trtpipe.report.manifest import Manifest
from trtpipe.report.provenance import PROVENANCE, SCRIPT, Provenance
from trtpipe.report.verdict import Evidence, Verdict, verdict_of
from trtpipe.summary import Summarized, Summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from trtpipe.accuracy.reports import ParityReport
    from trtpipe.artifact import Record
    from trtpipe.config.job import Job
    from trtpipe.latency.reports import LatencyReport
    from trtpipe.stages.stage import Stage

GRAPH = (".onnx",)
PLAN = (".plan", ".engine", ".trt")
JSON = (".json",)


@dataclass(frozen=True, repr=False)
class BuildResult(Summarized):
    """What a run made.

    Attributes:
        steps: one for every stage, one a target for compile.
        out: where the files are; ``None`` if nothing was written. A bundle that failed a gate, or lacks the engine of
            a target, goes to ``<out>.rejected``, so that ``out`` only ever holds one that passed; it is not written
            where that holds a file of the user's.
        verdict: what was executed, and what the gates say of it.
        parity, latency: the reports, where these stages ran.
    """

    steps: tuple[Step, ...]
    out: Path | None
    verdict: Verdict
    parity: ParityReport | None = None
    latency: LatencyReport | None = None

    @property
    def summary(self) -> Summary:
        """The verdict, and what became of each stage."""
        rows = tuple(
            (each.label, "" if each.artifact is None else each.artifact.path.name, each.state, each.because)
            for each in self.steps
        )
        said = self.verdict.headline or "nothing to judge"
        return Summary(f"{said} | {self.out or 'nothing written'}", ("stage", "artifact", "state", "because"), rows)

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Everything that was made or found, in pipeline order."""
        return tuple(step.artifact for step in self.steps if step.artifact is not None)

    @property
    def accurate(self) -> bool | None:
        """Whether outputs on real data passed the accuracy gate; ``None`` where that was not judged."""
        return {"passed": True, "failed": False}.get(self.verdict.accuracy.outcome)

    @property
    def fast(self) -> bool | None:
        """Whether engines on a GPU met the latency limit; ``None`` where that was not judged."""
        return {"passed": True, "failed": False}.get(self.verdict.latency.outcome)

    @property
    def failed(self) -> tuple[Step, ...]:
        """Targets that could not be built, and stages that failed, while the rest went on."""
        return tuple(step for step in self.steps if step.state == "failed")

    @property
    def manifest(self) -> Manifest | None:
        """The index of the bundle, where one was made."""
        artifact = next((artifact for artifact in self.artifacts if artifact.kind == "manifest"), None)
        return None if artifact is None else Manifest.read(artifact.path)


def rejected_beside(out: Path) -> Path:
    """The folder for what is not good enough for ``out``."""
    return out.with_name(f"{out.name}.rejected")


def publish_rejected(artifacts: Iterable[Artifact], folder: Path, warn: Callable[[str], None]) -> Path | None:
    """Write what is not good enough into a folder of its own.

    A folder that cannot be written, as it holds a file of the user's, must not hide the verdict: then this is said, and
    nothing is written.

    Returns:
        The folder; ``None`` if it could not be written.
    """
    try:
        check_writable(folder)
        publish_folder(artifacts, folder)
    except TrtpipeError as error:
        warn(f"what was rejected is not kept: {error.message}; {error.remedy}, and run again")
        return None
    return folder


def run_stages(
    job: Job,
    names: Sequence[str],
    given: Mapping[str, Path],
    out: Path | None,
    suffixes: Sequence[str],
    progress: Progress | None,
) -> BuildResult:
    """Some stages from the files of the user's, through the same code as the whole pipeline.

    If ``out`` is a file, the last artifact gets this name, and the others lie beside it under their own.
    """
    if out is not None:
        check_writable(folder_of(out, suffixes))
        _refuse_own_input(out, job, given)

    def publish(result: BuildResult) -> Path | None:
        if out is None:
            return None
        if result.failed:  # what there was before is whole, and this is not
            return publish_rejected(result.artifacts, rejected_beside(out), (progress or NullProgress()).warn)
        if len(names) > 1 and is_file_name(out, suffixes):
            return publish_file(result.artifacts[-1], out, suffixes, beside=result.artifacts[:-1])
        if len(result.artifacts) == 1:
            return publish_file(result.artifacts[0], out, suffixes)
        publish_folder(result.artifacts, out)
        return out

    return run_published(job, stages_named(*names), given, publish, progress)


def _refuse_own_input(out: Path, job: Job, given: Mapping[str, Path]) -> None:
    """Raise InputError where the result would replace what it is made from."""
    read = [*given.values(), *([job.source.path] if isinstance(job.source, OnnxSource | Pt2Source) else ())]
    if out.is_file() and any(path.exists() and out.samefile(path) for path in read):
        raise InputError(f"{out}: the command reads this file", "give the result another name")


def run_published(
    job: Job,
    stages: tuple[Stage[Any], ...],
    given: Mapping[str, Path],
    publish: Callable[[BuildResult], Path | None],
    progress: Progress | None,
) -> BuildResult:
    """Run and publish while the store is open: what it hands out is pinned until then."""
    with opened(job, progress or NullProgress()) as pipeline, pipeline.given(given) as artifacts:
        with _back_afterwards():
            steps = pipeline.run(stages, artifacts)
        limit = job.profile.latency.max_p99
        evidence = Evidence.of(
            [step.artifact for step in steps if step.artifact is not None],
            failures_of(steps),
            latency_limit=limit,
            handed_over=[target.name for target in job.handed_over],
        )
        result = BuildResult(steps, None, verdict_of(evidence), evidence.parity, evidence.latency)
        result = replace(result, out=publish(result))
    for step in result.failed:
        error = step.error
        if error is not None and not isinstance(error, StageError) and error.exit_code == result.verdict.exit_code:
            if result.out is not None:
                (progress or NullProgress()).warn(f"what was finished before {step.label} failed is in {result.out}")
            raise error
    return result


def write_record(record: Record, out: Path, name: str) -> Path:
    """Write ``record`` to ``out``: a file if it ends in .json, else a folder."""
    named = is_file_name(out, JSON)
    target = out if named else out / name
    write_file(target, record.to_file() + "\n", named=named)
    return target


@contextmanager
def provenance_of(artifacts: Sequence[Artifact], job: Job, out: Path) -> Iterator[tuple[Artifact, ...]]:
    """Where a bundle comes from, as a file that is there meanwhile; none if ``out`` holds the very bundle already."""
    manifest = next((artifact for artifact in artifacts if artifact.kind == "manifest"), None)
    if manifest is None or job.source is None:
        yield ()
        return
    before = Provenance.beside(out / manifest.files[0].name)
    if before is not None and before.manifest == manifest.files[0].sha256:
        yield ()
        return
    with TemporaryDirectory(prefix="trtpipe-") as folder:
        path, script = (Path(folder) / name for name in (PROVENANCE, SCRIPT))
        code = job.source.file if isinstance(job.source, FactorySource) else None
        made = Manifest.read(manifest.path)
        found = Provenance.now(manifest.path, made.source, code, made.toolchain)
        found.write(path)
        text = found.script(profile_toml(job.profile), recipe_toml(job.recipe, job.feeds))
        script.write_text(text, encoding="utf-8")
        yield tuple(Artifact("provenance", each.parent, (FileEntry.of(each),)) for each in (path, script))


@contextmanager
def reported(step: str, progress: Progress | None) -> Iterator[Progress]:
    """A listener that is told when ``step`` begins and how it ends."""
    listener = progress or NullProgress()
    listener.begin(step)
    try:
        yield listener
    except BaseException:
        listener.end(step, "failed")
        raise
    listener.end(step, "built")


@contextmanager
def _back_afterwards() -> Iterator[None]:
    """Return to the working folder: the user's code may leave it, and relative paths were meant from here."""
    here = os.open(".", os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY))
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)
