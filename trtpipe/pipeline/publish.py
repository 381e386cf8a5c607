"""From the store to the user's output folder: a bundle appears there whole, or the folder stays as it was.

A folder with a manifest holds what the manifest says: the old one is taken away before the first file is replaced, and
the new one comes last. Whoever is killed in between leaves a folder without a manifest, never one with a wrong one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Artifact, FileEntry
from trtpipe.config.os_errors import translate_os_errors
from trtpipe.errors import HostError, InputError
from trtpipe.report.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: A page about the bundle, which somebody may have asked for: it goes with what it tells of.
REPORT = "report.html"
#: What such a page says of where it comes from.
GENERATOR = "trtpipe"
_MANIFEST, _PREFIX = "manifest.json", ".trtpipe-"


def check_writable(out: Path) -> None:
    """Find out before any work whether the output can be written.

    Raises:
        InputError: ``out`` is a file where a folder is needed.
        HostError: there is no permission to write.
    """
    existing = next(path for path in (out.absolute(), *out.absolute().parents) if os.path.lexists(path))
    if existing.is_symlink() and not existing.exists():
        raise InputError(f"{existing}: a link to nothing", "correct the link, or choose another output folder with -o")
    if not existing.is_dir():
        raise InputError(f"{existing}: a file, so {out} cannot be a folder", "choose another output folder with -o")
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise HostError(
            f"{existing}: cannot be written to: {error.strerror}", "choose another output folder with -o"
        ) from error


def publish_folder(artifacts: Iterable[Artifact], out: Path) -> None:
    """Copy the artifacts' files into ``out``, the manifest last; files of an earlier bundle that are gone are removed.

    Every file is written beside its place and renamed, so a reader sees old or new, never half.

    Raises:
        HostError: no space or no permission; what was there before is still there.
    """
    ordered = sorted(artifacts, key=lambda artifact: artifact.kind == "manifest")
    with translate_os_errors(out, f"write {out}", elsewhere="choose another output folder with -o"):
        out.mkdir(parents=True, exist_ok=True)
        earlier = _listed(out)
        written = {entry.name for artifact in ordered for entry in artifact.files}
        with _staging(out) as staging:
            fresh = [_stage(artifact, entry, out, staging) for artifact in ordered for entry in artifact.files]
            changes = [pair for pair in fresh if pair is not None]
            gone = sorted(earlier - written)
            if changes or gone:
                stale = [out / name for name in (*gone, *([REPORT] if earlier else []))]
                _exchange(changes, stale, out / _MANIFEST, staging / "earlier")
                _sync(out)


def _exchange(changes: Sequence[tuple[Path, Path]], gone: Sequence[Path], manifest: Path, aside: Path) -> None:
    """Rename every file into its place, while there is no manifest; if one cannot be, all is put back as it was."""
    aside.mkdir()
    kept: list[tuple[Path, Path]] = []
    try:
        if manifest.exists():
            kept.append((manifest, aside / _MANIFEST))
            manifest.rename(aside / _MANIFEST)
        for final in [*gone, *(final for _, final in changes)]:
            if os.path.lexists(final):
                _second_name(final, aside / final.name)
                kept.append((final, aside / final.name))
        for final in gone:
            final.unlink(missing_ok=True)
        for staged, final in changes:
            staged.replace(final)
        if kept and kept[0][0] == manifest and not manifest.exists():  # it alone did not change
            (aside / _MANIFEST).rename(manifest)
    except OSError:
        for final, earlier in reversed(kept):  # the manifest last, and only if all else is there again
            earlier.replace(final)
        raise


def _second_name(path: Path, other: Path) -> None:
    """Keep a file that is about to be replaced or removed; where the file system has no links, it is moved."""
    try:
        other.hardlink_to(path)
    except OSError:
        path.rename(other)


def publish_file(artifact: Artifact, out: Path, suffixes: Sequence[str]) -> Path:
    """Copy one artifact to ``out``: a folder, or a file name whose suffix is among ``suffixes``.

    Returns:
        The main file's path.
    """
    if out.suffix not in suffixes or out.is_dir():
        check_writable(out)
        publish_folder([artifact], out)
        return out / artifact.files[0].name
    check_writable(out.parent)
    external = [entry.name for entry in artifact.files[1:] if entry.name.endswith(".data")]
    if external and out.name != artifact.files[0].name:
        raise InputError(
            f"{out}: this model keeps its weights in {external[0]}, so its own name is fixed",
            f"give a folder, or the name {artifact.files[0].name}",
        )
    with translate_os_errors(out, f"write {out}", elsewhere="choose another output with -o"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with _staging(out.parent) as staging:
            for position, entry in enumerate(artifact.files):
                name = entry.name.replace(artifact.files[0].name, out.name, 1)
                staged = staging / str(position)
                _copy(artifact.folder / entry.name, staged)
                staged.replace(out.parent / name)
            _sync(out.parent)
    return out


def write_file(path: Path, text: str) -> None:
    """Write a text file: old or new, never half.

    Raises:
        InputError: a folder is needed where a file lies.
        HostError: no space or no permission.
    """
    check_writable(path.parent)
    with translate_os_errors(path, f"write {path}", elsewhere="choose another file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A private folder inside ``out``, locked while in use; those of killed processes are removed."""
    for orphan in out.glob(f"{_PREFIX}*"):
        with suppress(OSError), _locked(orphan):  # its owner is alive, or it is not ours
            shutil.rmtree(orphan)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=out) as folder, _locked(Path(folder)):
        yield Path(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _sync(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the file system can."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def _stage(artifact: Artifact, entry: FileEntry, out: Path, staging: Path) -> tuple[Path, Path] | None:
    """A copy ready to be renamed, or ``None`` if the very same content lies there already."""
    final = out / entry.name
    if final.is_file() and final.stat().st_size == entry.size and FileEntry.of(final) == entry:
        return None
    staged = staging / entry.name
    _copy(artifact.folder / entry.name, staged)
    return staged, final


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as stream:
        os.fsync(stream.fileno())


def _listed(out: Path) -> set[str]:
    """Files of the bundle that lies in ``out`` already, by its manifest."""
    path = out / _MANIFEST
    if not path.is_file():
        return set()
    try:
        manifest = Manifest.read(path)
    except InputError:
        return set()
    return {
        entry.name for artifact in manifest.artifacts for entry in artifact.files if Path(entry.name).name == entry.name
    }
