"""``manifest.json``: the index of a bundle."""

from __future__ import annotations

from typing import Any, Literal

from trtpipe.artifact import FileEntry, Record
from trtpipe.config.formats import Precision
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
    files: tuple[FileEntry, ...]


class Manifest(Record):
    """The index: what is in the folder, from what and with what it was made, and whether it may ship.

    It holds no time and no path, so equal builds give equal manifests.

    Attributes:
        trtpipe: version of trtpipe.
        source: what the user named.
        precision, backend, targets: what was asked for.
        settings: the profile and the calibration method in force.
        toolchain: versions of everything that took part.
        calibration: an account of the calibration data; ``None`` where none was used.
        verdicts: one for every gate.
        nodes: what lowering decided for every node, and why.
        work: for 8 bits, how much of the multiply-accumulates they hold.
        notes: what the stages want read.
    """

    schema_version: Literal[1] = 1
    trtpipe: str
    source: str
    precision: Precision
    backend: str
    targets: tuple[str, ...]
    settings: dict[str, Any]
    toolchain: dict[str, str]
    calibration: dict[str, Any] | None
    artifacts: tuple[ManifestEntry, ...]
    verdicts: tuple[Verdict, ...]
    nodes: tuple[NodeDecision, ...] = ()
    work: WorkShare | None = None
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return all(verdict.passed is not False for verdict in self.verdicts)
