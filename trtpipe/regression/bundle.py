"""A bundle read back from its folder, for checks and comparisons of builds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.accuracy.reports import ParityReport
from trtpipe.artifact import FileEntry
from trtpipe.engine.record import EngineFigures, EngineRecord
from trtpipe.errors import InputError
from trtpipe.latency.reports import LatencyReport
from trtpipe.report.manifest import Manifest, ManifestEntry

if TYPE_CHECKING:
    from trtpipe.artifact import IOContract


@dataclass(frozen=True)
class Build:
    """A bundle whose files are those its manifest lists.

    Attributes:
        folder: the bundle.
    """

    folder: Path
    manifest: Manifest
    parity: ParityReport
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

    def path(self, label: str) -> Path:
        """The main file of an artifact."""
        return self.folder / entries(self.manifest.artifacts)[label].files[0].name


def entries(artifacts: tuple[ManifestEntry, ...]) -> dict[str, ManifestEntry]:
    """The artifacts of a bundle by their label."""
    return {entry.label: entry for entry in artifacts}


def read_build(folder: Path) -> Build:
    """Read the bundle in ``folder`` and check its files against the manifest.

    Raises:
        InputError: there is no bundle, a file of it is missing or was changed, or it holds no verification.
    """
    if not (folder / "manifest.json").is_file():
        raise InputError(f"{folder}: no bundle lies there", "give the folder that trtpipe build -o wrote")
    manifest = Manifest.read(folder / "manifest.json")
    for entry in manifest.artifacts:
        for file in entry.files:
            path = folder / Path(file.name).name
            if not path.is_file():
                raise InputError(f"{path}: listed in the manifest, but not there", "build again")
            if path.stat().st_size != file.size or FileEntry.of(path) != file:
                raise InputError(f"{path}: changed since it was built", "build again; a bundle is not edited by hand")
    found = entries(manifest.artifacts)
    if missing := {"model", "lowered", "parity"} - set(found):
        raise InputError(f"{folder}: the bundle has no {', '.join(sorted(missing))}", "build the whole pipeline")
    return Build(
        folder=folder,
        manifest=manifest,
        parity=ParityReport.read(folder / found["parity"].files[0].name),
        latency=LatencyReport.read(folder / found["latency"].files[0].name) if "latency" in found else None,
        engines={
            label.partition(":")[2]: EngineFigures.of(
                EngineRecord.read(folder / f"{entry.files[0].name}.json"), entry.files[0].size
            )
            for label, entry in found.items()
            if label.startswith("engine:") and len(entry.files) > 1
        },
    )


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
