"""A bundle read back from its folder, for checks and comparisons of builds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.accuracy.consistency import require_report
from trtpipe.accuracy.reports import ParityReport
from trtpipe.artifact import FileEntry
from trtpipe.backends.compatibility import contradictions
from trtpipe.backends.engine_file import FLAVORS, read_header
from trtpipe.digest import canonical_json, sha256_json
from trtpipe.engine.record import EngineFigures, EngineRecord
from trtpipe.errors import InputError
from trtpipe.latency.reports import LatencyReport
from trtpipe.report.manifest import Manifest, ManifestEntry

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtpipe.artifact import IOContract


MANIFEST = "manifest.json"
_AGAIN = "build again; a bundle is not edited by hand"


@dataclass(frozen=True)
class Build:
    """A bundle whose files are those its manifest lists.

    Attributes:
        folder: the bundle.
        parity: ``None`` where outputs could not be compared; the manifest's verdict says why.
    """

    folder: Path
    manifest: Manifest
    parity: ParityReport | None
    latency: LatencyReport | None
    engines: dict[str, EngineFigures]

    @cached_property
    def contract(self) -> IOContract:
        """The exported model's inputs and outputs."""
        from trtpipe.preflight.onnx_io import read_contract

        return read_contract(self.path("model"))

    @cached_property
    def weights(self) -> dict[str, str]:
        """Name -> digest of every constant of the exported model."""
        return weight_digests(self.path("model"))

    @cached_property
    def graph(self) -> str:
        """Digest of the exported model's nodes."""
        return graph_digest(self.path("model"))

    @property
    def unverified(self) -> str:
        """Why no outputs were compared; empty where they were."""
        return "" if self.parity is not None else self.manifest.verdict.accuracy.summary

    @property
    def nodes(self) -> dict[str, str]:
        """What every node computes in that lowering decided on."""
        return {decision.node: decision.precision for decision in self.manifest.nodes}

    def path(self, label: str) -> Path:
        """The main file of an artifact."""
        return self.folder / entries(self.manifest.artifacts)[label].files[0].name


def entries(artifacts: tuple[ManifestEntry, ...]) -> dict[str, ManifestEntry]:
    """The artifacts of a bundle by their label."""
    return {entry.label: entry for entry in artifacts}


def read_build(folder: Path) -> Build:
    """Read the bundle in ``folder`` and check its files against the manifest, which may be named itself.

    Raises:
        InputError: there is no bundle, or a file of it is missing or was changed.
    """
    if folder.name == MANIFEST and folder.is_file():
        folder = folder.parent
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder}: no bundle lies there", "give the folder that trtpipe build -o wrote")
    manifest = Manifest.read(folder / MANIFEST)
    _require_whole(folder / MANIFEST, manifest)
    for entry in manifest.artifacts:
        for file in entry.files:
            path = folder / Path(file.name).name
            if not path.is_file():
                raise InputError(f"{path}: listed in the manifest, but not there", "build again")
            if path.stat().st_size != file.size or FileEntry.of(path) != file:
                raise InputError(f"{path}: changed since it was built", "build again; a bundle is not edited by hand")
    found = entries(manifest.artifacts)
    if missing := {"model", "lowered"} - set(found):
        raise InputError(f"{folder}: the bundle has no {', '.join(sorted(missing))}", "build the whole pipeline")
    return Build(
        folder=folder,
        manifest=manifest,
        parity=_parity(folder, found) if "parity" in found else None,
        latency=LatencyReport.read(folder / found["latency"].files[0].name) if "latency" in found else None,
        engines={
            entry.label.partition(":")[2]: EngineFigures.of(
                read_engine(folder, entry, manifest.artifacts), entry.files[0].size
            )
            for entry in manifest.artifacts
            if is_engine(entry)
        },
    )


def is_engine(entry: ManifestEntry) -> bool:
    """Whether an artifact of a bundle is an engine, ``engine:<target>``."""
    return entry.label.startswith("engine:")


def read_engine(folder: Path, entry: ManifestEntry, artifacts: tuple[ManifestEntry, ...]) -> EngineRecord:
    """The record of an engine of a bundle.

    Args:
        entry: of the engine.
        artifacts: all of the bundle.

    Raises:
        InputError: it has none, or one of another plan or another graph than are in the bundle.
    """
    target, found = entry.label.partition(":")[2], entries(artifacts)
    plan, sidecar = folder / entry.files[0].name, folder / f"{entry.files[0].name}.json"
    if sidecar.name not in {Path(file.name).name for file in entry.files}:
        raise InputError(f"{folder / MANIFEST}: artifacts: {entry.label}: files: {sidecar.name} is missing", _AGAIN)
    record, sha256 = EngineRecord.read(sidecar), entry.files[0].sha256
    if record.target != target:
        raise InputError(f"{sidecar}: target: {record.target}, of the engine for {target}", _AGAIN)
    if record.digests.get("plan") != sha256:
        raise InputError(f"{sidecar}: digests: plan: not the digest of {plan.name}", _AGAIN)
    for label, digest in record.digests.items():
        if label in found and found[label].digest != digest:
            raise InputError(f"{sidecar}: digests: {label}: the engine was not built from the one here", _AGAIN)
    if record.flavor in FLAVORS:
        for contradiction in contradictions(read_header(plan), record, sha256):
            raise InputError(f"{plan}: {contradiction}", _AGAIN)
    return record


def _parity(folder: Path, found: dict[str, ManifestEntry]) -> ParityReport:
    """The verification of a bundle, of the files that are in it."""
    path = folder / found["parity"].files[0].name
    parity = ParityReport.read(path)
    require_report(str(path), parity)
    for label, digest in parity.digests.items():
        if label not in found or found[label].files[0].sha256 != digest:
            raise InputError(
                f"{folder}: parity.json: digests: {label} is not the file that was verified", "build again"
            )
    return parity


def _require_whole(path: Path, manifest: Manifest) -> None:
    """Raise InputError unless labels, files and digests of a manifest fit each other."""
    labels = [entry.label for entry in manifest.artifacts]
    for entry in manifest.artifacts:
        where = f"{path}: artifacts: {entry.label}"
        if labels.count(entry.label) > 1:
            raise InputError(f"{where}: is there twice", "build again; a manifest is not edited by hand")
        if not entry.files:
            raise InputError(f"{where}: files: there are none", "build again; a manifest is not edited by hand")
        if entry.digest != sha256_json([file.sha256 for file in entry.files]):
            raise InputError(f"{where}: digest: not that of its files", "build again; a bundle is not edited by hand")
    if ("parity" in labels) != (manifest.verdict.data != "none"):
        beside = "a" if "parity" in labels else "no"
        raise InputError(f"{path}: verdict.data: {manifest.verdict.data}, beside {beside} parity.json", "build again")


def weight_digests(model: Path) -> dict[str, str]:
    """Name -> digest (16 hex digits) of every constant, those of bodies included."""
    from trtpipe.preflight.onnx_io import load_model

    found: dict[str, str] = {}
    loaded = load_model(model)
    for graph in (loaded.graph, *loaded.graph.subgraphs()):
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                array = value.const_value.numpy()
                head = f"{array.dtype.name}{array.shape}".encode()
                found[str(name)] = hashlib.sha256(head + array.tobytes()).hexdigest()[:16]
    return found


def graph_digest(model: Path) -> str:
    """Digest of every node of a model, those of bodies included: operators, names and attributes, no initializers."""
    from trtpipe.preflight.onnx_io import load_model

    digest = hashlib.sha256()
    for node in load_model(model).graph.all_nodes():
        attributes = {str(name): _attribute(attribute) for name, attribute in node.attributes.items()}
        ends = [[None if value is None else value.name for value in side] for side in (node.inputs, node.outputs)]
        digest.update(canonical_json([node.domain, node.op_type, *ends, attributes]).encode())
    return digest.hexdigest()


def _attribute(attribute: ir.Attr) -> str:
    """A text that differs where an attribute does; bodies are counted node by node."""
    import onnx_ir as ir

    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return ""
    if attribute.type == ir.AttributeType.TENSOR:
        array = attribute.as_tensor().numpy()
        return hashlib.sha256(f"{array.dtype.name}{array.shape}".encode() + array.tobytes()).hexdigest()
    return repr(attribute.value)
