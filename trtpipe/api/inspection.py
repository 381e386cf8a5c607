"""What is in a file: a model, an engine, a profile, or whatever else trtpipe writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

from trtpipe.accuracy.reports import ParityReport
from trtpipe.api.alterations import alterations
from trtpipe.api.other_files import (
    RESULT_KEYS,
    OtherKind,
    command_result,
    describe,
    other_json,
    package,
    reference_outputs,
    saved_outputs,
)
from trtpipe.api.remedies import explained
from trtpipe.artifact import VERSION_KEY, IOContract, PublicRecord, Record
from trtpipe.backends.compatibility import contradictions, obstacles
from trtpipe.backends.engine_file import PlanHeader, read_header
from trtpipe.backends.null import NullEngine
from trtpipe.calibration.ranges import Ranges
from trtpipe.config.paths import path_of
from trtpipe.config.units import format_bytes
from trtpipe.delivery.record import FINISHED, MODEL
from trtpipe.digest import sha256_file
from trtpipe.engine.record import EngineRecord, ProgramRecord
from trtpipe.errors import InputError
from trtpipe.latency.reports import LatencyComparison, LatencyReport
from trtpipe.passes.decisions import NodeDecision, explain
from trtpipe.quantization.sensitivity import Sensitivity
from trtpipe.quantization.tuning_report import Tuning
from trtpipe.regression.baseline import Baseline
from trtpipe.regression.bundle import MANIFEST
from trtpipe.report.graph import GraphSummary, summarize_graph
from trtpipe.report.manifest import Manifest
from trtpipe.report.program import ProgramSummary, is_program, summarize_program
from trtpipe.report.stage_records import ExportRecord, LowerRecord, SimplifyRecord
from trtpipe.report.statistics import StatisticsSummary, summarize_statistics
from trtpipe.summary import Summarized, Summary

Kind: TypeAlias = (
    OtherKind
    | Literal[
        "baseline",
        "tuning",
        "sensitivity",
        "model",
        "program",
        "engine",
        "ranges",
        "statistics",
        "parity",
        "latency",
        "comparison",
        "manifest",
        "model metadata",
        "program metadata",
        "engine metadata",
    ]
)

_MOST_JSON = 256 << 20
_PLAN_MAGIC = (b"ftrt", b"vtrt")
_KNOWN = "an ONNX model, a .pt2 program, an engine, a profile, a recipe, or a file that trtpipe wrote"
#: The key of outputs that Polygraphy wrote.
_RUN_RESULTS = "lst"

#: Keys that only this record has -> kind of the file, name of the section, record.
_RECORDS: Mapping[frozenset[str], tuple[Kind, str, type[Record]]] = MappingProxyType(
    {
        frozenset({"artifacts", "source", "targets"}): ("manifest", "manifest", Manifest),
        frozenset({"artifacts", "weights", "history"}): ("baseline", "baseline", Baseline),
        frozenset({"calibrations", "reached"}): ("tuning", "tuning", Tuning),
        frozenset({"groups", "all_noise"}): ("sensitivity", "sensitivity", Sensitivity),
        frozenset({"tensors", "method"}): ("ranges", "ranges", Ranges),
        frozenset({"comparisons", "reference"}): ("parity", "parity", ParityReport),
        frozenset({"measurements", "machine"}): ("latency", "latency", LatencyReport),
        frozenset({"pairs", "machine"}): ("comparison", "comparison", LatencyComparison),
        frozenset({"exporter", "precision", "contract"}): ("program metadata", "captured", ProgramRecord),
        frozenset({"exporter", "contract"}): ("model metadata", "exported", ExportRecord),
        frozenset({"simplified", "nodes_before"}): ("model metadata", "simplified", SimplifyRecord),
        frozenset({"counts", "nodes"}): ("model metadata", "lowered", LowerRecord),
        frozenset({"target", "io", "build_seconds"}): ("engine metadata", "engine", EngineRecord),
        frozenset({"model", "target", "io"}): ("engine", "stand_in", NullEngine),
    }
)


class Inspection(Summarized, PublicRecord):
    """One file, described; sections that do not apply are ``None``.

    Attributes:
        path: as given.
        kind: of the file; ``... metadata`` for the JSON beside a graph, a program or an engine.
        size: bytes.
        graph: of a model.
        exported, simplified, lowered: the record that a stage wrote beside a model.
        program: of a ``.pt2`` file.
        captured: the record beside a program that trtpipe exported.
        plan: the header of an engine.
        engine: engine metadata, as the builder reported it.
        stand_in: the content of a null back-end's engine.
        comparison: two engines or graphs, measured alternately.
        baseline, tuning, sensitivity: what ``check``, ``tune`` and ``sensitivity`` wrote.
        contents: of a file that holds no record, by name and value.
        altered: files of the bundle that are not those its manifest lists; of a file in one that holds no verdict,
            itself. What an altered bundle says of itself does not count.
        notes: contradictions between the file and its metadata.
        obstacles: why an engine cannot run on this machine, by its header and metadata.
    """

    path: str
    kind: Kind
    size: int
    sha256: str
    graph: GraphSummary | None = None
    exported: ExportRecord | None = None
    program: ProgramSummary | None = None
    captured: ProgramRecord | None = None
    simplified: SimplifyRecord | None = None
    lowered: LowerRecord | None = None
    plan: PlanHeader | None = None
    engine: EngineRecord | None = None
    stand_in: NullEngine | None = None
    ranges: Ranges | None = None
    statistics: StatisticsSummary | None = None
    parity: ParityReport | None = None
    latency: LatencyReport | None = None
    comparison: LatencyComparison | None = None
    manifest: Manifest | None = None
    baseline: Baseline | None = None
    tuning: Tuning | None = None
    sensitivity: Sensitivity | None = None
    contents: dict[str, str] = {}
    altered: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()

    @property
    def summary(self) -> Summary:
        """What kind of file it is, and what it holds."""
        io = self.graph.contract if self.graph else IOContract(inputs=(), outputs=())
        rows = [*(("input", str(each)) for each in io.inputs), *(("output", str(each)) for each in io.outputs)]
        rows += [("note", note) for note in (*self.altered, *self.notes, *self.obstacles)]
        verdict = f"; {self.manifest.verdict.headline}" if self.manifest else ""
        said = f"{self.path}: {self.kind}, {format_bytes(self.size)}{verdict}"
        return Summary(said, ("what", "content"), (*rows, *self.contents.items()))

    def explain(self, node: str) -> tuple[NodeDecision, ...]:
        """What lowering decided for a node, or for all that a shell pattern matches.

        Raises:
            InputError: the file holds no decisions, or none for such a node.
        """
        record = self.lowered or self.manifest
        if record is None or not record.nodes:
            raise InputError(
                f"{self.path}: no record of decisions about nodes", "name a lowered.onnx, its JSON file or a manifest"
            )
        return explain(record.nodes, node)

    def built_as(self) -> dict[str, object]:
        """Fields of a deployment profile that a lowered graph, or an engine and the lowered graph beside it, settle:
        ``precision``, ``backend``, ``targets``.
        """
        found: dict[str, object] = {}
        lowered = self.lowered
        if self.flavor is not None:
            found |= {"backend": self.flavor, "targets": self.targets}
        beside = Path(self.path).with_name("lowered.onnx")
        if self.kind == "engine" and beside.is_file():
            lowered = inspect(beside).lowered
        return found if lowered is None else {**found, "precision": lowered.precision}

    @property
    def flavor(self) -> str | None:
        """The back-end that built an engine."""
        if self.engine is not None:
            return self.engine.flavor
        if self.plan is not None:
            return self.plan.flavor
        return None if self.stand_in is None else "null"

    @property
    def targets(self) -> tuple[str, ...]:
        """The GPUs an engine is for; empty where nothing says so."""
        if self.engine is not None:
            return (self.engine.target,)
        if self.plan is not None:
            return self.plan.targets or ()
        return () if self.stand_in is None else (self.stand_in.target,)


@explained
def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Describe a file by its content, with the JSON beside it where there is one.

    Args:
        path: a file, or the folder of a bundle, a package or a hand-over; of one that was finished, what came of it.

    Raises:
        InputError: it cannot be read, or is nothing trtpipe knows.

    Example:
        >>> trtpipe.inspect("model.plan").kind
        'engine'
    """
    path = path_of(path, "path")
    for name in (MANIFEST, FINISHED, MODEL):
        if (path / name).is_file():
            path /= name
    head = _head(path)
    kind, sections, contents = _recognized(path, head)
    sha256 = sha256_file(path)
    fit = _fit(sections, sha256)
    fit["notes"] = (*fit.get("notes", ()), *(() if _shown_beside(sections) else _unread(path)))
    found = {"path": str(path), "kind": kind, "size": path.stat().st_size, "sha256": sha256, **fit}
    return Inspection.model_validate({**found, **sections, "contents": contents, "altered": alterations(path)})


_Sections: TypeAlias = "dict[str, Record]"


def _recognized(path: Path, head: bytes) -> tuple[Kind, _Sections, dict[str, str]]:
    """The kind of a file, its records, and the contents of one that holds none."""
    kind: Kind
    sections: _Sections
    if head.startswith(_PLAN_MAGIC):
        kind, sections = "engine", {"plan": read_header(path), **_beside(path)}
    elif head.startswith(b"PK") and is_program(path):
        kind, sections = "program", {"program": summarize_program(path), **_beside(path)}
    elif head.startswith(b"PK") and (outputs := reference_outputs(path)) is not None:
        return "reference outputs", {}, outputs
    elif head.startswith(b"PK"):
        kind, sections = "statistics", {"statistics": summarize_statistics(path)}
    elif head.lstrip().startswith(b"{"):
        return _json(path)
    elif head.startswith(MODEL.encode() + b"\0"):  # the first name in a .tar
        return "package", {}, package(path)
    elif (other := describe(path, head)) is not None:
        return other[0], {}, other[1]
    else:
        kind, sections = "model", {"graph": summarize_graph(path), **_beside(path)}
    return kind, sections, {}


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path}: a folder without a {MANIFEST} or {MODEL}", "name a file in it")
    if not path.is_file():
        what = "not a regular file" if path.exists() else "no such file"
        raise InputError(f"{path}: {what}", f"give {_KNOWN}")
    try:
        with path.open("rb") as stream:
            return stream.read(128)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", "check its permissions") from error


def _json(path: Path) -> tuple[Kind, _Sections, dict[str, str]]:
    if path.stat().st_size > _MOST_JSON:
        raise InputError(f"{path}: too large for a file that trtpipe wrote", f"give {_KNOWN}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}", f"give {_KNOWN}") from error
    keys = set(content) if isinstance(content, dict) else set()
    if keys >= RESULT_KEYS:
        return "command result", {}, command_result(content)
    for wanted, (kind, section, record) in _RECORDS.items():
        if wanted <= keys:
            sections: _Sections = {section: record.read(path)}
            return kind, {**sections, **(_beside(path) if kind == "engine" else {})}, {}
    if _RUN_RESULTS in keys:
        return "outputs", {}, saved_outputs(path)
    if (other := other_json(path, content)) is not None:
        return other[0], {}, other[1]
    raise InputError(f"{path}: JSON, but not of a kind that trtpipe writes", f"give {_KNOWN}")


def _beside(path: Path) -> _Sections:
    """The sections that ``<name>.json`` beside a model, a program or an engine gives; none where others wrote it."""
    sidecar = path.with_name(f"{path.name}.json")
    if not sidecar.is_file():
        return {}
    try:
        kind, sections, _ = _json(sidecar)
    except InputError:
        return {}
    return sections if kind.endswith(" metadata") else {}


def _shown_beside(sections: _Sections) -> bool:
    """Whether the record beside a file is among its sections."""
    return any(kind.endswith(" metadata") and name in sections for kind, name, _ in _RECORDS.values())


def _unread(path: Path) -> tuple[str, ...]:
    """Why the record beside a file is not shown, where trtpipe wrote it."""
    sidecar = path.with_name(f"{path.name}.json")
    try:
        if (
            sidecar.is_file()
            and sidecar.stat().st_size <= _MOST_JSON
            and VERSION_KEY in json.loads(sidecar.read_bytes())
        ):
            _json(sidecar)
    except InputError as error:
        return (error.message,)
    except (OSError, ValueError, TypeError, RecursionError):
        pass  # none, or somebody else's
    return ()


def _fit(sections: _Sections, sha256: str) -> dict[str, tuple[str, ...]]:
    """Whether an engine fits the file beside it, and this machine."""
    plan, engine = sections.get("plan"), sections.get("engine")
    if not isinstance(plan, PlanHeader):
        return {}
    engine_record = engine if isinstance(engine, EngineRecord) else None
    return {
        "notes": contradictions(plan, engine_record, sha256),
        "obstacles": tuple(f"{found.reason}; {found.remedy}" for found in obstacles(plan, engine_record)),
    }
