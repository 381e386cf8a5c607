"""Entries: one stored artifact, its record, and the check that neither has changed.

An entry is a folder named by its key's digest. It holds the artifact's files and ``record.json``, which is written
last and carries its own digest, so that every single byte of the folder is covered by one, and a proof that this user's
trtpipe wrote it: the digest tells damage, the proof tells forgery.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from trtpipe.artifact import Artifact, FileEntry, Record
from trtpipe.digest import JSON, canonical_json, sha256_bytes, sha256_stream
from trtpipe.errors import StoreCorrupt
from trtpipe.store.files import corrupt, names_in, open_plain, read_plain
from trtpipe.store.key import Key
from trtpipe.store.layout import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtpipe.config.authenticity import Seal

RECORD = "record.json"
#: Most bytes of a record that are ever read.
RECORD_LIMIT = 16 << 20
#: What a record is sealed for: one that is authentic for one purpose is not for another.
ENTRY, MEMO = "entry", "memo"


class Entry(Record):
    """The content of ``record.json``.

    Attributes:
        layout: version of this record.
        digest: the key's digest, which is also the folder's name.
        key: everything that decided the artifact.
        kind, target, files: as in Artifact.
        seconds: the time the build took.
    """

    layout: Literal[1] = 1
    digest: str
    key: Key
    kind: str
    target: str | None = None
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    def artifact(self, folder: Path) -> Artifact:
        """The artifact, stored in ``folder``."""
        return Artifact(kind=self.kind, folder=folder, files=self.files, target=self.target)


@dataclass(frozen=True)
class Stored:
    """An entry as the store lists it.

    Attributes:
        folder: its folder.
        size: bytes on disk, record included.
        last_used: when it was last looked up or stored, in seconds since 1970.
    """

    entry: Entry
    folder: Path
    size: int
    last_used: float


class NotAuthentic(StoreCorrupt):
    """A record that is intact, and was not sealed with the key that this store trusts."""


def seal(content: JSON, by: Seal | None = None, purpose: str = ENTRY) -> bytes:
    """``content`` as one line of JSON that carries its own digest, and the proof of ``by``."""
    text = canonical_json(content).encode()
    proof = "" if by is None else by.seal(purpose, text)
    return (canonical_json({"content": content, "proof": proof, "sha256": sha256_bytes(text)}) + "\n").encode()


def unseal(data: bytes, by: Seal, purpose: str = ENTRY) -> Any:
    """The content that :func:`seal` was given.

    Raises:
        ValueError: any byte differs from the sealed record.
        NotAuthentic: it was sealed with another key, or with none.
    """
    try:
        document = json.loads(data)
        content, proof = document["content"], document["proof"]
        text = canonical_json(content).encode()
        whole = {"content": content, "proof": proof, "sha256": sha256_bytes(text)}
        intact = isinstance(proof, str) and (canonical_json(whole) + "\n").encode() == data
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("not a sealed record") from error
    if not intact:
        raise ValueError("content does not match its digest")
    if not by.verify(purpose, text, proof):
        raise NotAuthentic("was not sealed with the key of this user", "build again")
    return content


def seal_memo(name: str, value: JSON, by: Seal) -> bytes:
    """A value that is remembered under ``name``, as a sealed record."""
    return seal({"name": name, "value": value}, by, MEMO)


def unseal_memo(data: bytes, name: str, by: Seal) -> JSON:
    """The value that :func:`seal_memo` was given; ``None`` if the record is damaged, not ours, or of another name."""
    try:
        content = unseal(data, by, MEMO)
    except (StoreCorrupt, ValueError):
        return None
    if not isinstance(content, dict) or content.get("name") != name:
        return None
    value: JSON = content.get("value")
    return value


def is_entry_name(name: str) -> bool:
    """Whether a file of an artifact may be called ``name``: one plain component that is not the record's own."""
    return name == Path(name).name and name not in {"", "..", RECORD} and "\0" not in name


def read_entry(folder: Path, by: Seal) -> Entry:
    """Read and check the record of the entry in ``folder``; its other files are not checked.

    Raises:
        NotAuthentic: the record was sealed with another key, or with none.
        StoreCorrupt: it is unreadable, changed, or names a key other than the folder's.
    """
    path = folder / RECORD
    try:
        entry = Entry.model_validate(unseal(read_plain(path, RECORD_LIMIT), by))
    except (ValueError, ValidationError) as error:
        raise corrupt(f"{path}: not the record that was written") from error
    if not entry.digest == entry.key.digest == digest_of(folder):
        raise corrupt(f"{folder}: holds the entry of another key ({entry.key.label}, {entry.digest[:12]})")
    if not all(is_entry_name(file.name) for file in entry.files):
        raise corrupt(f"{path}: names a file outside its folder")
    return entry


def check_entry(folder: Path, by: Seal, *, content: bool = True) -> Entry:
    """Read the entry in ``folder`` and check that it holds exactly its files, unchanged.

    Args:
        content: hash every file; without it only names, sizes and kinds of the files are checked.

    Raises:
        NotAuthentic: the record was sealed with another key, or with none.
        StoreCorrupt: anything differs; the message names the file.
    """
    found = names_in(folder)
    entry = read_entry(folder, by)
    _same_names(folder, found, {RECORD, *(file.name for file in entry.files)})
    for file in entry.files:
        path = folder / file.name
        with os.fdopen(open_plain(path), "rb", buffering=0) as stream:
            if (size := os.fstat(stream.fileno()).st_size) != file.size:
                raise corrupt(f"{path}: has {size} bytes, {file.size} were stored")
            if content and sha256_stream(stream) != file.sha256:
                raise corrupt(f"{path}: content changed since it was stored")
    return entry


def _same_names(folder: Path, found: Iterable[str], expected: Iterable[str]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        raise corrupt(f"{folder}: {', '.join(missing)} is missing")
    if extra:
        raise corrupt(f"{folder}: holds {', '.join(map(ascii, extra))}, which was never stored")
