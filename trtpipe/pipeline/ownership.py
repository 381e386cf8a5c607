"""Which files of a folder trtpipe itself has written: the only ones that it replaces or removes unasked.

A folder that trtpipe writes to holds ``.trtpipe.json``: name, size and sha256 of each file that it has put there,
sealed with the user's key. A manifest or a name proves nothing: anyone can edit the one, and use the other. A file is
ours while its content is what the record says; one that was edited since, or was there before, belongs to the user.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.artifact import FileEntry, Record
from trtpipe.config.settings import user_key
from trtpipe.durable import plain_mode, write_new
from trtpipe.errors import InputError, StoreCorrupt
from trtpipe.store.entry import seal, unseal
from trtpipe.store.files import is_at, read_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trtpipe.config.authenticity import Seal

#: Name -> what trtpipe wrote under it; more than one while files are being exchanged.
Owned: TypeAlias = "dict[str, set[FileEntry]]"

RECORD = ".trtpipe.json"
_PURPOSE, _FOLDER_PURPOSE = "written files", "staging folder"
_LIMIT = 4 << 20
_STAGING = re.compile(r"\.trtpipe-(?P<name>[0-9a-f]{16})-(?P<proof>[0-9a-f]{32})")


class Written(Record):
    """What ``.trtpipe.json`` holds.

    Attributes:
        files: every file that trtpipe has written there, or is about to.
        leaving: names of those that are being removed.
    """

    files: tuple[FileEntry, ...] = ()
    leaving: tuple[str, ...] = ()


@dataclass
class OwnFolder:
    """A folder of the user's, held alone by this process, and what in it is trtpipe's.

    Attributes:
        path: absolute.
        files: name -> what trtpipe wrote under it; more than one while files are being exchanged.
        leaving: what a run that was killed had begun to remove.
        foreign: whether there is a record that is not sealed with the user's key, and is left as it is.
    """

    path: Path
    seal: Seal
    files: Owned = field(default_factory=dict)
    leaving: tuple[str, ...] = ()
    foreign: bool = False

    def owns(self, name: str) -> bool:
        """Whether the file of that name is there, and is exactly what trtpipe wrote."""
        known, path = self.files.get(name, set()), self.path / name
        if not known or path.is_symlink() or not path.is_file():
            return False
        return path.stat().st_size in {entry.size for entry in known} and FileEntry.of(path) in known

    def check(self, names: Iterable[str]) -> None:
        """Refuse to replace what is not ours.

        Raises:
            InputError: a file of one of ``names`` is the user's, or was changed since it was written.
        """
        for name in names:
            path = self.path / name
            if plain_mode(path) is not None and not self.owns(name):
                raise self._taken(path)

    def record(self, files: Owned, staging: Path, leaving: tuple[str, ...] = ()) -> None:
        """Write down what is ours; before it is put there, so that the next run can tell even if this one is killed.

        Raises:
            InputError: there is a record that is not sealed with the user's key.
        """
        if files == self.files and leaving == self.leaving:
            return
        if self.foreign:
            raise self._taken(self.path / RECORD)
        entries = (entry for found in files.values() for entry in found)
        written = Written(files=tuple(sorted(entries, key=lambda entry: (entry.name, entry.sha256))), leaving=leaving)
        part = staging / f"{RECORD}.{secrets.token_hex(8)}"
        write_new(part, seal(written.to_dict(), self.seal, _PURPOSE), 0o666)
        part.replace(self.path / RECORD)
        self.files, self.leaving = files, leaving

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A private folder inside, removed afterwards. Nobody but us can make its name, so that what a killed run left
        can be told from a folder of the user's that is only called alike.
        """
        name = secrets.token_hex(8)
        folder = self.path / f".trtpipe-{name}-{self._proof(name)}"
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove the work folders of runs that were killed: this process holds the folder alone, so they have ended."""
        for orphan in self.path.glob(".trtpipe-*"):
            if self._made(orphan):
                shutil.rmtree(orphan, ignore_errors=True)

    def _taken(self, path: Path) -> InputError:
        key = "; if it was written under another key, set TRTPIPE_CACHE_KEY to that" if self.foreign else ""
        return InputError(
            f"{path}: is there already, and is not what this user's trtpipe wrote",
            f"move it, or choose another place with -o{key}",
        )

    def _made(self, path: Path) -> bool:
        found = _STAGING.fullmatch(path.name)
        return found is not None and found["proof"] == self._proof(found["name"]) and not path.is_symlink()

    def _proof(self, name: str) -> str:
        return self.seal.seal(_FOLDER_PURPOSE, name.encode())[:32]


@contextmanager
def held(path: Path, by: Seal | None = None) -> Iterator[OwnFolder]:
    """Make the folder where it is missing, and hold it alone among trtpipe's processes, waiting for others.

    Args:
        by: seals the record of what is ours; by default the user's key.

    Raises:
        OSError: the folder cannot be made or opened.
    """
    where = path.absolute()
    seal_of_user = by or user_key()
    handle = _locked(where)
    try:
        written = Written()
        foreign = plain_mode(where / RECORD) is not None
        if foreign and (found := _read(where, seal_of_user)) is not None:
            written, foreign = found, False
        files: Owned = {}
        for entry in written.files:
            files.setdefault(entry.name, set()).add(entry)
        folder = OwnFolder(where, seal_of_user, files, written.leaving, foreign)
        folder.sweep()
        yield folder
    finally:
        os.close(handle)


def _locked(path: Path) -> int:
    while True:
        path.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # removed meanwhile
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if is_at(handle, path.resolve()):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)


def _read(path: Path, by: Seal) -> Written | None:
    """The folder's record; ``None`` if there is none of ours."""
    try:
        written = Written.model_validate(unseal(read_plain(path / RECORD, _LIMIT), by, _PURPOSE))
    except (StoreCorrupt, ValueError):
        return None
    return written if all(entry.name == Path(entry.name).name for entry in written.files) else None
