"""``manifest.json``, the index of a bundle, with the verdict on it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from trtpipe.artifact import FileEntry, IOContract, PublicRecord, Record
from trtpipe.calibration.data_summary import DataSummary
from trtpipe.config.formats import Precision
from trtpipe.config.recipe import Preprocessing
from trtpipe.passes.decisions import NodeDecision, WorkShare
from trtpipe.report.verdict import Verdict


class ManifestEntry(Record):
    """One artifact of the bundle.

    Attributes:
        label: its name (``lowered``, ``engine:sm89``).
        digest: its content digest.
        key: digest of the key it was made under; empty for a file the user supplied.
        files: main file first.
    """

    label: str
    digest: str
    key: str
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1)]


class Evaluation(Record):
    """What the model was evaluated with.

    Attributes:
        data: name of the data set.
        data_digest: of its content.
        preprocessing: how files became inputs; ``None`` if the data came as arrays.
        metric: the metric and the output it reads; empty for none.
        function_digest: of a user-defined metric and the files beside it; empty for other metrics.
    """

    data: str
    data_digest: str
    preprocessing: Preprocessing | None = None
    metric: str = ""
    function_digest: str = ""


class Manifest(PublicRecord):
    """The index of a bundle: its files, their source, the tools and settings that made them, and the verdict.

    It holds no time and no path, so equal builds give equal manifests.

    Attributes:
        trtpipe: version of trtpipe.
        source: what the user named.
        precision, backend, targets: what was asked for.
        settings: the profile and the calibration settings in force.
        toolchain: name -> version of every tool used.
        calibration: summary of the calibration data; ``None`` where none was used.
        verdict: what was executed and what the gates say.
        nodes: the precision of every node, and why.
        work: for 8-bit precisions, the share of multiply-accumulates (MACs) in them.
        classes: names of the model's classes; empty where they are not known.
        signature: inputs and outputs of the exported model; ``None`` if nothing was exported.
        evaluation: what outputs were compared and the metric measured on; ``None`` without a verification.
        notes: remarks of the stages.
    """

    SCHEMA: ClassVar[int] = 4

    trtpipe: str
    source: str
    precision: Precision
    backend: str
    targets: tuple[str, ...]
    settings: dict[str, Any]
    toolchain: dict[str, str]
    calibration: DataSummary | None
    artifacts: tuple[ManifestEntry, ...]
    verdict: Verdict
    nodes: tuple[NodeDecision, ...] = ()
    work: WorkShare | None = None
    classes: tuple[str, ...] = ()
    signature: IOContract | None = None
    evaluation: Evaluation | None = None
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool | None:
        """Whether the build passed its gates; ``None`` where it was not judged on real data."""
        return self.verdict.passed
