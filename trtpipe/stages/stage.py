"""The shape every stage has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, runtime_checkable

from trtpipe.artifact import Record
from trtpipe.errors import InternalError

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.artifact import Artifact, Draft, Feed
    from trtpipe.config.build_request import BuildRequest, NotNeeded
    from trtpipe.config.settings import Settings
    from trtpipe.config.source import Source
    from trtpipe.config.target import Target
    from trtpipe.data.dataset import Dataset
    from trtpipe.progress import Progress
    from trtpipe.report.verdict import Failure

S = TypeVar("S", bound=Record)
S_contra = TypeVar("S_contra", bound=Record, contravariant=True)

#: What a stage may consume besides artifacts and data: the model's source, plug-in libraries, the user's metric.
SOURCE, PLUGINS, METRIC = "source", "plugins", "metric"
#: Samples to compare outputs on: the evaluation data, or the calibration data where there is none.
SAMPLES = "samples"
#: The first of these, one at a time.
FIRST_SAMPLES = "first-samples"
#: What failed before, while the run went on.
FAILURES = "failures"


class Stage(Protocol[S]):
    """One arrow of the pipeline, with the record of its settings.

    Attributes:
        name: the verb; also the command's name.
        produces: the kind of artifact it makes.
        version: raised whenever the same inputs would give other bytes.
        packages: distributions whose version may change the bytes.
    """

    @property
    def name(self) -> str: ...

    @property
    def produces(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def packages(self) -> tuple[str, ...]: ...

    @property
    def optional(self) -> tuple[str, ...]:
        """Kinds of artifact that it can do without: where it comes later, a stage that makes one may fail."""
        return ()

    def settings(self, request: BuildRequest) -> S | NotNeeded:
        """Exactly what of a request decides the bytes; or why the request does not need the stage."""

    def consumes(self, settings: S) -> tuple[str, ...]:
        """Labels of the inputs it needs: artifact kinds (``engine`` stands for all), roles of data sets, ``samples``,
        ``first-samples``, ``source``, ``plugins``, ``metric``, ``failures``. Labels of data count where
        the metric does.
        """

    def fingerprint(self, settings: S, runtime: Settings) -> dict[str, str]:
        """Versions and devices of the back-end it uses; part of the key."""
        return {}

    def run(self, settings: S, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress) -> Draft:
        """Make the artifact inside ``workdir``.

        Args:
            runtime: limits, threads and folders of this machine: what may differ from one machine to another and not
                change the bytes.
        """

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """Raise StageError when the draft is not what the stage promises."""


@runtime_checkable
class Shareable(Protocol[S_contra]):
    """A stage that can make the artifacts of several targets in one piece of work."""

    def together(self, request: BuildRequest) -> tuple[Target, ...]:
        """Those of the request's targets that may share; fewer than two: none do."""

    def run_together(
        self, settings: S_contra, inputs: Inputs, workdir: Path, runtime: Settings, progress: Progress
    ) -> tuple[Draft, ...]:
        """As ``run``, for all targets together that ``settings`` names, in that order; those that are left out may
        still be made one by one.

        Raises:
            StageError: it cannot be done for one of them; they may still be made one by one.
        """


@runtime_checkable
class Resumable(Protocol):
    """A stage that goes on where a killed or interrupted run stopped: it finds its own files in ``workdir`` again, if
    that run had the very same key. What it makes may not depend on whether, or where, it was interrupted.
    """

    @property
    def resumes(self) -> Literal[True]: ...


@runtime_checkable
class Noting(Protocol):
    """A stage whose record holds what users should hear, also where its artifact comes from the store."""

    def warnings(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """What of the request may be a mistake, or not come out as was meant."""

    def notes(self, artifact: Artifact, inputs: Inputs) -> tuple[str, ...]:
        """Sentences about what was made."""


@dataclass(frozen=True)
class Inputs:
    """What a stage is given by content: artifacts by label, data sets by role, and what else the user brings.

    Attributes:
        artifacts: ``model``, ``simplified``, ``ranges``, ``lowered``, ``engine:sm89``, ...
        datasets: ``calibration-data`` and ``evaluation-data``.
        keys: label -> digest of the key the artifact was stored under, where it came from the store.
        source: where the model comes from.
        source_digest: its digest as the key has it; empty where only the export can tell.
        plugins: plug-in libraries, absolute.
        metric: the user's own metric: ``path/file.py:function`` or ``package.module:function``; empty for none.
        labels_count: whether a metric is measured, so that the labels of data are a part of it.
        first_samples: see ``FIRST_SAMPLES``.
        metric_digest: its digest as the key has it; empty where only running it can tell.
        failures: targets and stages that failed before.
    """

    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    source: Source | None = None
    source_digest: str = ""
    plugins: tuple[Path, ...] = ()
    metric: str = ""
    labels_count: bool = False
    first_samples: tuple[Feed, ...] = ()
    metric_digest: str = ""
    failures: tuple[Failure, ...] = ()

    @property
    def samples(self) -> Dataset | None:
        """Samples to compare outputs on; see ``SAMPLES``."""
        return self.datasets.get("evaluation-data") or self.datasets.get("calibration-data")

    def path(self, label: str) -> Path:
        """Main file of the artifact called ``label``."""
        if label not in self.artifacts:
            raise InternalError(f"a stage asked for {label!r}, which is not among its inputs {sorted(self.artifacts)}")
        return self.artifacts[label].path

    def graph(self) -> Path | None:
        """The first of the graphs from the model to the lowered one that is there."""
        found = next((label for label in ("model", "simplified", "lowered") if label in self.artifacts), None)
        return None if found is None else self.path(found)

    def engines(self, targets: Collection[str] | None = None) -> tuple[Artifact, ...]:
        """The engines for ``targets`` (default: all), sorted by label, in whatever order they were asked for."""
        engines = (artifact for artifact in self.artifacts.values() if artifact.kind == "engine")
        found = (engine for engine in engines if targets is None or engine.target in targets)
        return tuple(sorted(found, key=lambda engine: engine.label))
