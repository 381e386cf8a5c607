"""Files that lie on one machine alone, sent to others through the bucket: by content, and checked where they arrive."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import FileEntry
from trtpipe.errors import HostError, InputError
from trtpipe.store.files import make_folder

if TYPE_CHECKING:
    from trtpipe.remote import Bucket


def files_of(path: Path, names: Iterable[str] = ()) -> tuple[Path, tuple[str, ...]]:
    """A folder, and the names of what belongs to ``path`` in it: the file itself and ``names`` beside it, or all files
    of a folder.

    Raises:
        InputError: there is nothing.
    """
    if path.is_dir():
        found = tuple(sorted(str(each.relative_to(path)) for each in path.rglob("*") if each.is_file()))
        return path, found
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder", "check the path")
    return path.parent, (path.name, *names)


def send(bucket: Bucket, folder: Path, names: Iterable[str], limit: int) -> tuple[tuple[FileEntry, ...], bool]:
    """Put files into the bucket that are not there, if they have ``limit`` bytes together at most.

    Returns:
        What they are, and whether they are in the bucket.
    """
    entries = tuple(FileEntry.of(folder / name, name) for name in names)
    if sum(entry.size for entry in entries) > limit:
        return entries, False
    for entry in entries:
        found = bucket.head(_name(entry))
        if found is None or found.size != entry.size:
            bucket.upload(_name(entry), folder / entry.name)
    return entries, True


def receive(bucket: Bucket, entries: Iterable[FileEntry], folder: Path) -> None:
    """Fill ``folder`` with files that were sent, if it is not there; it appears whole.

    Raises:
        HostError: a file is gone, or is not what was sent.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        for entry in entries:
            place = part / entry.name
            if part not in place.resolve().parents:
                raise HostError(f"{entry.name!r}: a file outside its folder", "start the matrix again")
            place.parent.mkdir(parents=True, exist_ok=True)
            if bucket.download(_name(entry), place, entry.size + 1) != entry.sha256:
                raise HostError(f"{entry.name}: is not in the shared store as it was sent", "start the matrix again")
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # another worker was faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def same_here(folder: Path, entries: Iterable[FileEntry]) -> bool:
    """Whether this machine has the very files under the same path."""
    for entry in entries:
        path = folder / entry.name
        if not path.is_file() or path.stat().st_size != entry.size or FileEntry.of(path).sha256 != entry.sha256:
            return False
    return True


def _name(entry: FileEntry) -> str:
    return f"sent/{entry.sha256[:2]}/{entry.sha256}"
