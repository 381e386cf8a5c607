"""Whether the files of a bundle are still those that its manifest lists, and its verdict that of its reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Artifact, FileEntry
from trtpipe.config.profile import DeploymentProfile
from trtpipe.errors import InputError
from trtpipe.regression.bundle import is_engine, read_engine
from trtpipe.report.manifest import Manifest
from trtpipe.report.verdict import CORRECTIONS, Evidence, verdict_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_MANIFEST, _PARITY = "manifest.json", "parity.json"


def alterations(path: Path) -> tuple[str, ...]:
    """What was changed since the build: for a manifest or a verdict in the whole bundle, for another file of one in
    this file, and in the verdict that the manifest gives on it.

    Returns:
        A sentence for each file; nothing where ``path`` belongs to no bundle.
    """
    beside = path.with_name(_MANIFEST)
    try:
        manifest = Manifest.read(beside)
    except InputError:
        return ()
    if path.name == _PARITY:
        return tuple(_changed(manifest, path.parent))
    if path.name != _MANIFEST:
        if all(Path(entry.name).name != path.name for artifact in manifest.artifacts for entry in artifact.files):
            return ()
        return (
            tuple(_changed(manifest, path.parent, path.name))
            or tuple(_engines(manifest, path.parent, path.name))
            or tuple(_contradiction(manifest, path.parent))
        )
    return (
        tuple(_changed(manifest, path.parent))
        or tuple(_contradiction(manifest, path.parent))
        or tuple(_engines(manifest, path.parent))
    )


def _changed(manifest: Manifest, folder: Path, only: str = "") -> Iterator[str]:
    for entry in (entry for artifact in manifest.artifacts for entry in artifact.files):
        name = Path(entry.name).name
        path = folder / name
        if only and name != only:
            continue
        if not path.is_file():
            yield f"{name}: missing, and the manifest lists it"
        elif path.stat().st_size != entry.size or FileEntry.of(path, entry.name) != entry:
            yield f"{name}: not the file that the manifest lists: it was changed after the build"


def _engines(manifest: Manifest, folder: Path, only: str = "") -> Iterator[str]:
    """Engines whose records are of other plans, or of other graphs, than are in the bundle."""
    for entry in filter(is_engine, manifest.artifacts):
        if not only or any(Path(file.name).name == only for file in entry.files):
            try:
                read_engine(folder, entry, manifest.artifacts)
            except InputError as error:
                yield error.message


def _contradiction(manifest: Manifest, folder: Path) -> Iterator[str]:
    """Whether the reports of the bundle give the verdict that its manifest has."""
    artifacts = []
    for entry in manifest.artifacts:
        kind, _, target = entry.label.partition(":")
        artifacts.append(Artifact(kind=kind, folder=folder, files=entry.files, target=target or None))
    try:
        profile = DeploymentProfile.model_validate(manifest.settings.get("profile", {}))
        limit = profile.latency.max_p99
        noted = [failure for failure in manifest.verdict.failures if failure.step != CORRECTIONS]  # read from ranges
        elsewhere = manifest.verdict.handed_over
        found = verdict_of(Evidence.of(artifacts, noted, latency_limit=limit, handed_over=elsewhere))
    except (InputError, ValueError) as error:
        yield f"{_MANIFEST}: its verdict cannot be checked: {str(error).splitlines()[0]}"
        return
    if found != manifest.verdict:
        yield f"{_MANIFEST}: its verdict is not that of the reports it lists"
