"""Listing, verification and pruning of a shared store.

Pruning takes away records at once and their files an hour later, because another machine may just be fetching them;
what a machine is just storing is younger than that. Ages are told by the store's own clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from trtpipe.errors import StoreCorrupt
from trtpipe.store.entry import RECORD_LIMIT, Entry, NotAuthentic
from trtpipe.store.layout import seal_name
from trtpipe.store.maintenance import PruneReport, VerifyReport
from trtpipe.store.shared_layout import OBJECT_NAME, RECORD_NAME, object_name, read_record

if TYPE_CHECKING:
    from trtpipe.config.authenticity import Seal
    from trtpipe.remote import Bucket, Listed

T = TypeVar("T")
R = TypeVar("R")

#: How long files of a removed record are kept.
GRACE_SECONDS = 3600.0
#: Folders of what nobody removes: leases of the dead, marks of the clock, inputs that were sent to workers; and for how
#: long it is of use.
_LEFT = {"leases/": 24 * 3600.0, "clock/": 24 * 3600.0, "sent/": 7 * 24 * 3600.0}
_AT_ONCE = 16


@dataclass(frozen=True)
class SharedEntry:
    """An entry of a shared store.

    Attributes:
        size: bytes of its files and its record.
        stored: when it was stored, or used on a later day, in seconds since 1970 on the store's clock.
    """

    entry: Entry
    name: str
    size: int
    stored: float


def listing(bucket: Bucket, by: Seal) -> tuple[SharedEntry, ...]:
    """Every entry with a readable record that is sealed with this store's key, the oldest first."""
    found = (each for each in _mapped(_reader(bucket, by), _records(bucket)) if isinstance(each, SharedEntry))
    return tuple(sorted(found, key=lambda each: (each.stored, each.name)))


def verify(bucket: Bucket, by: Seal) -> VerifyReport:
    """See ``SharedStore.verify``."""
    faults, foreign, size, records = [], 0, 0, _records(bucket)
    sound: dict[str, bool] = {}
    for record, found in zip(records, _mapped(_reader(bucket, by), records), strict=True):
        if found is None:
            foreign += 1
            continue
        fault = found if isinstance(found, str) else _damage(bucket, found.entry, sound)
        if fault:
            bucket.delete(record.name)
            faults.append(f"{record.name}: {fault}")
        elif isinstance(found, SharedEntry):
            size += found.size
    return VerifyReport(len(records), size, tuple(faults), foreign)


def _damage(bucket: Bucket, entry: Entry, sound: dict[str, bool]) -> str:
    """What is wrong with the files of an entry; empty if nothing is. A file's content is read once."""
    for file in entry.files:
        name = object_name(file.sha256)
        if name not in sound:
            digest = bucket.download(name, None, file.size + 1)
            sound[name] = digest == file.sha256
            if digest is not None and not sound[name]:
                bucket.delete(name)
        if not sound[name]:
            return f"{file.name} is missing, or not what was stored"
    return ""


def prune(
    bucket: Bucket, by: Seal, max_bytes: int | None, max_age_seconds: float | None, grace_seconds: float
) -> PruneReport:
    """See ``SharedStore.prune``."""
    now = bucket.now()
    records = _records(bucket)
    read = list(zip(records, _mapped(_reader(bucket, by), records), strict=True))
    damaged = [record for record, found in read if isinstance(found, str)]
    for record in damaged:
        bucket.delete(record.name)
    entries = sorted((found for _, found in read if isinstance(found, SharedEntry)), key=lambda each: each.stored)
    removed, freed, size = len(damaged), sum(each.size for each in damaged), sum(each.size for each in entries)
    kept = []
    for each in entries:
        old = max_age_seconds is not None and now - each.stored > max_age_seconds
        if old or (max_bytes is not None and size > max_bytes):
            _retire(bucket, each.name)
            removed, freed, size = removed + 1, freed + each.size, size - each.size
        else:
            kept.append(each)
    if not any(found is None for _, found in read):  # files of others' entries cannot be told from files of none
        _sweep(bucket, by, now, grace_seconds)
    for prefix, seconds in _LEFT.items():
        for left in list(bucket.list(prefix)):
            if now - left.modified > seconds:
                bucket.delete(left.name)
    return PruneReport(removed, freed, len(kept), size, 0)


def _retire(bucket: Bucket, name: str) -> None:
    """Take a record away; its copy says until when its files are kept."""
    found = bucket.get(name, RECORD_LIMIT)
    if found is not None:
        bucket.put(f"removed/{name}", found.data)
        bucket.delete(name)


def _sweep(bucket: Bucket, by: Seal, now: float, grace: float) -> None:
    """Remove files that belong to no entry, nor did an hour ago."""
    wanted: set[str] = set()
    objects = [each for each in bucket.list("objects/") if OBJECT_NAME.fullmatch(each.name)]
    retired = [each for each in bucket.list("removed/") if RECORD_NAME.fullmatch(each.name.removeprefix("removed/"))]
    gone = [each for each in retired if now - each.modified >= grace]
    recent = [each for each in retired if now - each.modified < grace]
    for found in _mapped(_reader(bucket, by), [*_records(bucket), *recent]):  # listed after the files
        if isinstance(found, SharedEntry):
            wanted |= {object_name(file.sha256) for file in found.entry.files}
    unused = [each for each in objects if each.name not in wanted and now - each.modified >= grace]
    list(_mapped(lambda each: bucket.delete(each.name), [*unused, *gone]))


def _records(bucket: Bucket) -> list[Listed]:
    return [each for each in bucket.list("entries/") if RECORD_NAME.fullmatch(each.name)]


def _reader(bucket: Bucket, by: Seal) -> Callable[[Listed], SharedEntry | str | None]:
    """Reads a record: the entry; ``None`` for one under another seal; or what is wrong with it."""
    ours = f"-{seal_name(by)}.json"

    def read(record: Listed) -> SharedEntry | str | None:
        if not record.name.endswith(ours):
            return None
        found = bucket.get(record.name, RECORD_LIMIT)
        if found is None:
            return "its record is gone, or too large"
        try:
            entry = read_record(found.data, by)
        except NotAuthentic:
            return "its record was not sealed with the key of this store"
        except StoreCorrupt as fault:
            return fault.message
        if entry.digest not in record.name:
            return "its record is of another key"
        size = len(found.data) + sum(file.size for file in entry.files)
        return SharedEntry(entry, record.name, size, found.modified)

    return read


def _mapped(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results in order, several at once: each is little more than a wait for the store."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(work, items)
