"""From the store to the user's output folder: a bundle appears there whole, or the folder stays as it was.

A folder with an index (the manifest of a bundle) holds what that says: the old one is taken away before the first file
is replaced, and the new one comes last. Whoever is killed in between leaves a folder without an index, never one with a
wrong one.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import FileEntry
from trtpipe.config.os_errors import translate_os_errors
from trtpipe.durable import copy_new, plain_mode, sync_folder, write_new
from trtpipe.errors import HostError, InputError
from trtpipe.pipeline.ownership import RECORD, held
from trtpipe.report.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from trtpipe.artifact import Artifact
    from trtpipe.pipeline.ownership import OwnFolder

#: A page about the bundle, which somebody may have asked for: it is removed with the bundle that it describes.
REPORT = "report.html"
#: What such a page says of where it comes from.
GENERATOR = "trtpipe"


@dataclass(frozen=True)
class Index:
    """The file of a folder that lists the others: it is taken away first, and comes last.

    Attributes:
        name: of the file.
        listed: the names that are in such a file, itself left out.
        alone: whether the folder may hold nothing else, so that others' files in it are refused.
    """

    name: str
    listed: Callable[[Path], Sequence[str]]
    alone: bool = False


def _of_manifest(path: Path) -> list[str]:
    return [entry.name for artifact in Manifest.read(path).artifacts for entry in artifact.files]


#: Of a bundle.
BUNDLE = Index("manifest.json", _of_manifest)


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


def check_names(out: Path, names: Iterable[str]) -> None:
    """Find out before any work whether files of these names can be written into a folder of ours.

    Raises:
        InputError: one is there, and is not what trtpipe wrote.
        HostError: no permission.
    """
    elsewhere = "choose another output folder with -o"
    with translate_os_errors(out, f"write {out}", elsewhere=elsewhere), held(out) as folder:
        folder.check(names)


def publish_folder(artifacts: Iterable[Artifact], out: Path) -> None:
    """Copy the artifacts' files into ``out``, the manifest last; see ``publish_files``."""
    _publish({entry.name: (entry, each.folder / entry.name) for each in artifacts for entry in each.files}, out, BUNDLE)


def publish_files(files: Mapping[str, Path], out: Path, index: Index) -> None:
    """Copy files into ``out`` under the names given, the index last; files of an earlier bundle that are gone are
    removed.

    Every file is written beside its place and renamed, so a reader sees old or new, never half. Only files that
    trtpipe wrote there are replaced or removed; see :mod:`trtpipe.pipeline.ownership`.

    Raises:
        InputError: a file of the user's, or one that was edited, is in the way; nothing was written.
        HostError: no space or no permission; what was there before is still there.
    """
    _publish({name: (FileEntry.of(path, name), path) for name, path in files.items()}, out, index)


def publish_tree(files: Mapping[str, Path], out: Path, indices: Collection[str]) -> None:
    """Copy files into ``out`` and folders below it, each folder as ``publish_files`` does.

    A file of ``indices`` makes a folder what it is to others: it is taken away before anything around it changes, and
    comes last. A folder for one that holds others' files alone is not written to.

    Args:
        files: path below ``out``, with ``/`` -> where the content lies now.

    Raises:
        InputError: a folder with an index is another's, or a file of the user's is in the way; nothing was written.
        HostError: no space or no permission.
    """
    folders: dict[Path, dict[str, Path]] = {}
    for name, source in files.items():
        folders.setdefault((out / name).parent, {})[Path(name).name] = source
    elsewhere = "choose another output folder with -o"
    deepest = sorted(folders, key=lambda folder: (-len(folder.parts), folder))
    with translate_os_errors(out, f"write {out}", elsewhere=elsewhere):
        for folder in deepest:
            if os.path.lexists(folder):
                _check_ours(folder, folders[folder], indices)
        for folder, names in folders.items():
            if folder.exists():
                with held(folder) as own:
                    for index in filter(own.owns, set(names) & set(indices)):
                        (folder / index).unlink()
    for folder in deepest:
        index = next((name for name in folders[folder] if name in indices), "")
        publish_files(folders[folder], folder, Index(index, lambda _: ()))


def _check_ours(folder: Path, wanted: Mapping[str, Path], indices: Collection[str]) -> None:
    check_writable(folder)
    with held(folder) as own:
        own.check(name for name, source in wanted.items() if not _is_there(folder / name, FileEntry.of(source, name)))
        if set(indices) & set(wanted) and any(folder.iterdir()) and not own.files:
            raise InputError(
                f"{folder}: is there already, and is not what this user's trtpipe wrote",
                "move it, give the model another name, or choose another output folder with -o",
            )


def _publish(files: Mapping[str, tuple[FileEntry, Path]], out: Path, index: Index) -> None:
    wanted = {name: files[name] for name in sorted(files, key=lambda name: name == index.name)}
    elsewhere = "choose another output folder with -o"
    with translate_os_errors(out, f"write {out}", elsewhere=elsewhere), held(out) as folder:
        changes = {name: pair for name, pair in wanted.items() if not _is_there(folder.path / name, pair[0])}
        gone = _outdated(folder, wanted, changes, index)
        if index.alone:
            _check_alone(folder, {*wanted, *gone})
        if not changes and not gone:
            return
        folder.check(changes)
        with folder.staging() as staging:
            for name, (_, source) in changes.items():
                copy_new(source, staging / name)
            before = folder.files
            after = {
                name: known
                for name, known in before.items()
                if name not in gone and (name in wanted or not index.alone)
            }
            after |= {name: {entry} for name, (entry, _) in changes.items()}
            either = {name: before.get(name, set()) | after.get(name, set()) for name in (*before, *after)}
            folder.record(either, staging, leaving=tuple(gone))
            try:
                _exchange(folder, changes, gone, staging, index)
            except OSError:
                folder.record(before, staging)
                raise
            folder.record(after, staging)


def _check_alone(folder: OwnFolder, ours: Collection[str]) -> None:
    for path in sorted(folder.path.iterdir()):
        if path.name not in ours and path.name != RECORD:
            raise InputError(
                f"{path}: would be taken for a part of what is written here, which holds its own files alone",
                "move it, or choose a folder of its own with -o",
            )


def _is_there(path: Path, entry: FileEntry) -> bool:
    """Whether the very same content lies there already."""
    status = path.lstat() if os.path.lexists(path) else None
    plain = status is not None and stat.S_ISREG(status.st_mode) and status.st_size == entry.size
    return plain and FileEntry.of(path) == entry


def _outdated(folder: OwnFolder, wanted: Collection[str], changes: Collection[str], index: Index) -> list[str]:
    """What has to go when ``changes`` are made: the rest of an earlier bundle if this is one, otherwise its index,
    if that no longer is true; and the page about it.
    """
    listed: list[str] = []
    if folder.owns(index.name):
        with suppress(InputError):  # of another version of trtpipe: what it lists is not known, and stays
            listed = list(index.listed(folder.path / index.name))
    if index.name in wanted:
        earlier = dict.fromkeys((*listed, *folder.leaving))
        gone = [name for name in earlier if name not in wanted and name != REPORT and folder.owns(name)]
    else:
        gone = [index.name] if set(changes) & set(listed) else []
    return [*gone, REPORT] if (gone or changes) and folder.owns(REPORT) else gone


def _exchange(folder: OwnFolder, changes: Collection[str], gone: Sequence[str], staging: Path, index: Index) -> None:
    """Rename every file into its place, while there is no index; if one cannot be, all is put back as it was."""
    aside = staging / "earlier"  # no artifact's file is called so without a suffix
    aside.mkdir()
    manifest = folder.path / index.name
    kept: list[tuple[Path, Path]] = []
    try:
        if (index.name in changes or index.name in gone) and manifest.exists():
            kept.append((manifest, aside / index.name))
            manifest.rename(aside / index.name)
        for name in (*gone, *changes):
            if os.path.lexists(folder.path / name):
                _second_name(folder.path / name, aside / name)
                kept.append((folder.path / name, aside / name))
        for name in gone:
            (folder.path / name).unlink(missing_ok=True)
        for name in changes:
            (staging / name).replace(folder.path / name)
    except OSError:
        for final, earlier in reversed(kept):  # the index last, and only if all else is there again
            earlier.replace(final)
        raise
    sync_folder(folder.path)


def _second_name(path: Path, other: Path) -> None:
    """Keep a file that is about to be replaced or removed; where the file system has no links, it is moved."""
    try:
        other.hardlink_to(path)
    except OSError:
        path.rename(other)


def publish_file(artifact: Artifact, out: Path, suffixes: Sequence[str], beside: Sequence[Artifact] = ()) -> Path:
    """Copy one artifact to ``out``: a folder, or a file name whose suffix is among ``suffixes``.

    Args:
        beside: artifacts that go with it, into the same folder under their own names.

    Returns:
        The main file's path.

    Raises:
        InputError: a file of the user's lies where one goes that was not named; nothing was written.
    """
    if out.suffix not in suffixes or out.is_dir():
        check_writable(out)
        publish_folder([*beside, artifact], out)
        return out / artifact.files[0].name
    check_writable(out.parent)
    external = [entry.name for entry in artifact.files[1:] if entry.name.endswith(".data")]
    if external and out.name != artifact.files[0].name:
        raise InputError(
            f"{out}: this model keeps its weights in {external[0]}, so its own name is fixed",
            f"give a folder, or the name {artifact.files[0].name}",
        )
    own = artifact.files[0].name
    contents = {entry.name: other.folder / entry.name for other in beside for entry in other.files}
    contents |= {entry.name.replace(own, out.name, 1): artifact.folder / entry.name for entry in artifact.files}
    _put(out.parent, contents, named={out.name}, what=out)
    return out


def publish_own(source: Path, out: Path) -> None:
    """Copy a file to ``out``, and note that it is ours: unlike what ``publish_file`` writes where the user names it,
    it only takes the place of a file that trtpipe wrote.

    Raises:
        InputError: another file lies there; nothing was written.
        HostError: no space or no permission.
    """
    check_writable(out.parent)
    if not _is_there(out, FileEntry.of(source, out.name)):
        _put(out.parent, {out.name: source}, named=(), what=out)


def write_files(texts: Mapping[Path, str], named: Collection[Path]) -> None:
    """Write text files into one folder: each old or new, never half.

    Args:
        named: those that the user named, which may be replaced whatever they are.

    Raises:
        InputError: a folder is needed where a file lies, or a file of the user's lies where one goes that was not
            named; nothing was written.
        HostError: no space or no permission.
    """
    first = next(iter(texts))
    check_writable(first.parent)
    contents = {path.name: text.encode() for path, text in texts.items()}
    _put(first.parent, contents, named={path.name for path in named}, what=first)


def write_file(path: Path, text: str, *, named: bool = True) -> None:
    """As :func:`write_files`, for one."""
    write_files({path: text}, named=(path,) if named else ())


def _put(out: Path, contents: Mapping[str, Path | bytes], *, named: Collection[str], what: Path) -> None:
    """Write files of ours into a folder of the user's, those that were not named only over files of ours."""
    with translate_os_errors(what, f"write {what}", elsewhere="choose another output with -o"), held(out) as folder:
        for name in named:
            plain_mode(folder.path / name)
        folder.check(name for name in contents if name not in named)
        with folder.staging() as staging:
            for name, content in contents.items():
                if isinstance(content, bytes):
                    write_new(staging / name, content, 0o666)
                else:
                    copy_new(content, staging / name)
            made = {name: {FileEntry.of(staging / name)} for name in contents}
            known = set(contents) - set(named) or set(contents) & set(folder.files)
            if known and not folder.foreign:  # what is written beside another's record stays the user's
                both = {name: folder.files.get(name, set()) | made[name] for name in made}
                folder.record({**folder.files, **both}, staging)
            for name in contents:
                (staging / name).replace(folder.path / name)
        sync_folder(folder.path)
