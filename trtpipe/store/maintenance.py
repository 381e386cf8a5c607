"""Removal of entries: corrupt ones, old ones, and all of them."""

from __future__ import annotations

import os
import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtpipe.errors import StoreCorrupt
from trtpipe.store.entry import RECORD, NotAuthentic, Stored, check_entry, read_entry
from trtpipe.store.files import claim, locked, open_plain, try_locked
from trtpipe.store.layout import digest_of, drop_partial, partial_folders, scratch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trtpipe.store.entry import Entry
    from trtpipe.store.layout import Layout

_ASIDE = re.compile(r"[a-z][a-z0-9_-]*-[0-9a-f]{64}(-[0-9a-f]{16})?-[0-9a-f]{8}")
_MEMO = re.compile(r"[0-9a-f]{64}\.json")


@dataclass(frozen=True)
class PruneReport:
    """The result of a prune.

    Attributes:
        removed, freed: number and bytes of the entries removed, those set aside as corrupt included.
        kept, size: number and bytes of the entries left.
        in_use: how many of those left were not removed because they are in use.
    """

    removed: int
    freed: int
    kept: int
    size: int
    in_use: int


@dataclass(frozen=True)
class VerifyReport:
    """The result of checking all entries.

    Attributes:
        checked, size: entries and bytes checked.
        corrupt: one line for each corrupt entry.
        foreign: how many entries are not sealed with this user's key: they are never used, and pruned.
    """

    checked: int
    size: int
    corrupt: tuple[str, ...]
    foreign: int = 0


@dataclass(frozen=True)
class _Occupied:
    """The folder of an entry, intact or not: its bytes and when it was last used."""

    place: Path
    size: int
    last_used: float


def listing(layout: Layout) -> Iterator[Stored]:
    """Every entry with a readable record, least recently used first. Contents are not hashed."""
    for found in _occupied(layout):
        with suppress(StoreCorrupt):  # reported by verify()
            yield Stored(read_entry(found.place, layout.seal), found.place, found.size, found.last_used)


def recent(layout: Layout, stage: str, limit: int) -> Iterator[Entry]:
    """The records of a stage's last used entries, the latest first."""
    for found in _occupied(layout, stage)[: -limit - 1 : -1]:
        with suppress(StoreCorrupt):
            yield read_entry(found.place, layout.seal)


def total_size(layout: Layout) -> int:
    """Bytes of all entries, those set aside as corrupt and what interrupted builds left included."""
    others = (*_inside(layout.corrupt, _ASIDE), *partial_folders(layout))
    return sum(found.size for found in _occupied(layout)) + sum(_tree_size(path) for path in others)


def quarantine(layout: Layout, place: Path) -> bool:
    """Move the entry at ``place`` to ``corrupt/`` if it is still corrupt; returns whether it was.

    Another process may have replaced it by an intact one, so it is checked again under the lock.
    """
    layout.create()
    with locked(layout.removal_lock):
        if not os.path.lexists(place) or _is_sound(layout, place):
            return False
        layout.make(layout.corrupt)
        stage = place.parent.parent.name
        place.rename(layout.corrupt / f"{stage}-{place.name}-{secrets.token_hex(4)}")
        return True


def verify(layout: Layout) -> VerifyReport:
    """Hash every entry; corrupt ones are moved to ``corrupt/``, those sealed with another key are counted."""
    found = _occupied(layout)
    faults, foreign = [], 0
    for occupied in found:
        try:
            check_entry(occupied.place, layout.seal)
        except NotAuthentic:
            foreign += 1
        except StoreCorrupt as fault:
            if quarantine(layout, occupied.place):
                faults.append(fault.message)
    return VerifyReport(len(found), sum(occupied.size for occupied in found), tuple(faults), foreign)


def prune(layout: Layout, max_bytes: int | None, max_age_seconds: float | None) -> PruneReport:
    """Remove corrupt entries, those sealed with another key, entries unused for longer than allowed, and then the least
    recently used ones until the rest fits. Entries in use are kept.
    """
    removed = freed = in_use = 0
    with scratch(layout, "prune the cache") as trash:
        for path in _inside(layout.corrupt, _ASIDE):
            size = _tree_size(path)
            with suppress(FileNotFoundError):  # another process removed it
                path.rename(trash / path.name)
                removed, freed = removed + 1, freed + size
        found = _occupied(layout)
        kept, size, now = len(found), sum(occupied.size for occupied in found), time.time()
        for occupied in found:
            stale = max_age_seconds is not None and now - occupied.last_used > max_age_seconds
            stale = stale or _is_foreign(layout, occupied.place)
            if not stale and (max_bytes is None or size <= max_bytes):
                continue
            if not _remove(layout, occupied, trash):
                in_use += 1
                continue
            removed, freed = removed + 1, freed + occupied.size
            kept, size = kept - 1, size - occupied.size
    return PruneReport(removed, freed, kept, size, in_use)


def clear(layout: Layout) -> PruneReport:
    """Remove everything that is not in use: entries, corrupt and partial ones, and memos."""
    drop_partial(layout, 0)
    with scratch(layout, "clear the cache") as trash:
        for path in _inside(layout.memo, _MEMO):
            with suppress(FileNotFoundError):  # another process removed it
                path.rename(trash / path.name)
    return prune(layout, max_bytes=-1, max_age_seconds=None)


def _remove(layout: Layout, occupied: _Occupied, trash: Path) -> bool:
    """Move one entry to ``trash`` unless it is being built, read, or was used since it was listed."""
    place = occupied.place
    with locked(layout.removal_lock), try_locked(layout.key_lock(digest_of(place))) as unbuilt:
        if not os.path.lexists(place):  # another process removed it
            return True
        if not unbuilt or _last_used(place) != occupied.last_used:
            return False
        try:
            handle = open_plain(place / RECORD, os.O_RDWR)
        except StoreCorrupt:  # a damaged entry has no readers
            handle = None
        try:
            if handle is not None and not claim(handle):
                return False
            place.rename(trash / place.name)
        finally:
            if handle is not None:
                os.close(handle)
    return True


def _is_foreign(layout: Layout, place: Path) -> bool:
    """Whether the entry is sealed with another key than this store's, or with none."""
    try:
        read_entry(place, layout.seal)
    except NotAuthentic:
        return True
    except StoreCorrupt:  # for verify() to say
        return False
    return False


def _is_sound(layout: Layout, place: Path) -> bool:
    try:
        check_entry(place, layout.seal)
    except StoreCorrupt:
        return False
    return True


def _occupied(layout: Layout, stage: str = "*") -> list[_Occupied]:
    """Every place (of one stage), least recently used first."""
    found = []
    for place in layout.places(stage):
        with suppress(FileNotFoundError):  # removed meanwhile
            size = _tree_size(place) or _tree_size(place)  # 0 if the entry was replaced meanwhile
            found.append(_Occupied(place, size, _last_used(place)))
    return sorted(found, key=lambda occupied: (occupied.last_used, occupied.place.name))


def _last_used(place: Path) -> float:
    """When the entry was last looked up: the modification time of its record, or of the folder without one."""
    try:
        return os.lstat(place / RECORD).st_mtime
    except OSError:
        return os.lstat(place).st_mtime


def _inside(folder: Path, names: re.Pattern[str]) -> list[Path]:
    """What the store itself has put into ``folder``; other files there are not touched."""
    return sorted(path for path in folder.glob("*") if names.fullmatch(path.name))


def _tree_size(path: Path) -> int:
    """Bytes of a file, or of the files in a folder; links are not followed."""
    try:
        if path.is_symlink() or not path.is_dir():
            return os.lstat(path).st_size
        return sum(_tree_size(inside) for inside in path.iterdir())
    except FileNotFoundError:  # removed meanwhile
        return 0
