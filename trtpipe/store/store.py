"""The artifact store: finished artifacts, found by the key of what they were made from."""

from __future__ import annotations

import errno
import os
import weakref
from collections import OrderedDict
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from trtpipe.artifact import Artifact, Draft, FileEntry
from trtpipe.config.settings import user_key
from trtpipe.digest import JSON, canonical_json, sha256_bytes
from trtpipe.durable import sync_folder, write_new
from trtpipe.errors import InternalError, StoreCorrupt
from trtpipe.progress import NullProgress, Progress
from trtpipe.store import maintenance
from trtpipe.store.entry import (
    RECORD,
    RECORD_LIMIT,
    Entry,
    NotAuthentic,
    Stored,
    check_entry,
    is_entry_name,
    read_entry,
    seal,
    seal_memo,
    unseal_memo,
)
from trtpipe.store.files import corrupt, is_at, locked, open_plain, read_plain, share, take
from trtpipe.store.layout import Layout, resumable, scratch, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from trtpipe.config.authenticity import Seal
    from trtpipe.store.key import Key
    from trtpipe.store.shared import SharedStore

_ATTEMPTS = 3
_MOST_PINS = 128
_MOST_NEIGHBORS = 50
_QUIET_SECONDS = 1.0
_FOREIGN = (
    "entries that are not sealed with this user's key are built again (trtpipe cache prune removes them, "
    "TRTPIPE_CACHE_KEY carries a key to another machine)"
)
_NO_KEY = (
    "no key can be kept in the user's configuration folder, so this run's results are not used again: "
    "make it writable, or set TRTPIPE_CACHE_KEY"
)


class ArtifactStore:
    """Artifacts stored in one folder, shared by any number of processes of one user.

    Artifacts from ``lookup`` and ``put`` are verified, and no process prunes them until this store is closed (by
    ``close``, the end of a ``with`` block, or the end of the process); that holds for the last 128 artifacts.

    Args:
        root: the cache folder; created with mode 0700 when something is first stored. Opening an existing one
            removes what killed processes left behind.
        progress: receives a warning for each corrupt entry, a note while waiting for another process, and one where
            entries of another key are not used.
        seal: proves that this user's trtpipe wrote an entry; by default with the key of the user's configuration
            folder, or that of ``TRTPIPE_CACHE_KEY``.
        shared: what other machines have made, and get from this one; with the same seal. Then ``root`` is the cache in
            front of it.

    Raises:
        HostError: from any method: the folder cannot be used, is another user's or is open to others, the disk
            is full or fails.
    """

    def __init__(
        self,
        root: Path,
        progress: Progress | None = None,
        seal: Seal | None = None,
        shared: SharedStore | None = None,
    ) -> None:
        self._layout = Layout(root.absolute(), seal or user_key())
        self._shared = shared
        self._said: set[str] = set()
        self._progress: Progress = progress or NullProgress()
        self._pins: OrderedDict[str, int] = OrderedDict()  # digest -> handle with a shared lock on the record
        weakref.finalize(self, _release, self._pins)
        if os.path.lexists(self.root):
            self._layout.check_owner()
            sweep(self._layout)

    @property
    def root(self) -> Path:
        """The cache folder, absolute."""
        return self._layout.root

    def __enter__(self) -> ArtifactStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the artifacts returned so far for pruning. The store can still be used."""
        _release(self._pins)

    def peek(self, key: Key) -> Entry | None:
        """The entry for ``key`` if there is one, here or shared by another machine: names and sizes are checked,
        contents are neither hashed nor fetched."""
        place = self._layout.place(key)
        with self._layout.translate("read the cache"), suppress(StoreCorrupt):
            return check_entry(place, self._layout.seal, content=False)
        return None if self._shared is None else self._shared.peek(key)

    def lookup(self, key: Key, *, share: bool = True) -> Artifact | None:
        """The verified artifact for ``key``, or ``None``.

        Every byte of the entry is checked. A corrupt entry is moved to ``corrupt/``, reported as a warning, and then
        counts as missing. So does one that is not sealed with this store's key, which is left until it is replaced.
        What another machine has shared is fetched.

        Args:
            share: whether what only this machine has is shared.

        Raises:
            HostError: the shared store cannot be reached.
        """
        found = self._lookup(key)
        if self._shared is None:
            return found
        if found is None:
            return self._fetch(key, self._shared)
        if share and self._shared.wants(key):
            self._shared.share(key, read_entry(found.folder, self._layout.seal), found.folder)
        return found

    def _fetch(self, key: Key, shared: SharedStore) -> Artifact | None:
        doing = f"fetch {key.label}"
        with scratch(self._layout, doing) as staging, self._layout.translate(doing):
            entry = shared.fetch(key, staging)
            return None if entry is None else self._install(staging, key, entry)

    def _lookup(self, key: Key) -> Artifact | None:
        place = self._layout.place(key)
        with self._layout.translate("read the cache"):
            for _ in range(_ATTEMPTS):  # again if another process replaces the entry meanwhile
                if not os.path.lexists(place):
                    if self._layout.is_elsewhere(key):
                        self._say_once(f"{self.root}: {_FOREIGN}")
                    break
                try:
                    return self._open(place, key)
                except NotAuthentic:
                    self._say_once(f"{self.root}: {_FOREIGN}")
                    break
                except StoreCorrupt as fault:
                    if maintenance.quarantine(self._layout, place):
                        self._progress.warn(f"corrupt cache entry set aside, {key.label} is built again: {fault}")
        return None

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._progress.note(message)

    def _open(self, place: Path, key: Key) -> Artifact:
        """Pin the entry at ``place`` and check it; the pin comes first, so that it cannot be pruned meanwhile."""
        record = place / RECORD
        handle = open_plain(record)
        try:
            share(handle)
            if not is_at(handle, record):
                raise corrupt(f"{place}: replaced while it was opened")
            entry = check_entry(place, self._layout.seal)
            if canonical_json(entry.key.document) != canonical_json(key.document):
                raise corrupt(f"{place}: holds the entry of another key")
            with suppress(OSError):  # a read-only cache can still be used
                os.utime(handle)
        except BaseException:
            os.close(handle)
            raise
        self._pin(key.digest, handle)
        return entry.artifact(place)

    def put(self, key: Key, draft: Draft, seconds: float) -> Artifact:
        """Store a stage's result. If another process has stored the same key meanwhile, its artifact is kept.

        Files in a work folder of this store are moved, others are copied; they become read-only. The entry appears
        complete or not at all, even if the machine stops.

        Args:
            seconds: the time the build took.
        """
        if not self._layout.seal.lasting:
            self._say_once(_NO_KEY)
        doing = f"store the result of {key.label}"
        above = draft.folder.absolute().parents
        move = self._layout.tmp in above or self._layout.partial in above
        needed = None if move else _size(draft)
        with scratch(self._layout, doing) as staging, self._layout.translate(doing, needed):
            entry = self._fill(staging, key, draft, seconds, move=move)
            if self._shared is not None and not self._shared.push(key, entry, staging):
                winner = self._fetch(key, self._shared)  # all machines go on with the same bytes
                if winner is not None:
                    return winner
            return self._install(staging, key, entry)

    def _fill(self, staging: Path, key: Key, draft: Draft, seconds: float, *, move: bool) -> Entry:
        """Make ``staging`` a complete entry, flushed to the disk; the record is written last."""
        if bad := [name for name in draft.names if not is_entry_name(name)]:
            raise InternalError(f"stage {key.stage!r} names a file {bad[0]!r}, which cannot be stored")
        for name in draft.names:
            take(draft.folder / name, staging / name, move=move)
        files = tuple(FileEntry.of(staging / name) for name in draft.names)
        entry = Entry(digest=key.digest, key=key, kind=draft.kind, target=draft.target, files=files, seconds=seconds)
        write_new(staging / RECORD, seal(entry.to_dict(), self._layout.seal))
        sync_folder(staging)
        return entry

    def _install(self, staging: Path, key: Key, entry: Entry) -> Artifact:
        """Rename a complete entry into its place, pinned so that it cannot be pruned at once."""
        place = self._layout.place(key)
        self._layout.make(place.parent)
        for _ in range(_ATTEMPTS):
            if (winner := self._lookup(key)) is not None:  # also moves a corrupt entry aside
                return winner
            maintenance.quarantine(self._layout, place)  # one of another key
            handle = open_plain(staging / RECORD)
            share(handle)
            try:
                staging.rename(place)
            except OSError as error:
                os.close(handle)
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                continue
            self._pin(key.digest, handle)
            sync_folder(place.parent)
            return entry.artifact(place)
        raise StoreCorrupt(f"{place}: cannot be replaced", f"remove {place}")

    @contextmanager
    def lock(self, key: Key) -> Iterator[None]:
        """Be the only builder of ``key`` among all processes, and machines where the store is shared. Look up again
        inside: another may have built it before.

        The lock of a killed process is released at once on its own machine, and for others after the lease's term.
        """
        doing = f"lock {key.label} in the cache"
        waiting = f"waiting for another process that builds {key.label}"
        path = self._layout.key_lock(key.digest)
        with ExitStack() as stack:
            with self._layout.translate(doing):
                self._layout.create()
                stack.enter_context(locked(path, _QUIET_SECONDS, lambda: self._progress.note(waiting)))
            if self._shared is not None and self._lookup(key) is None:
                stack.enter_context(self._shared.lock(key))
            yield

    @contextmanager
    def workdir(self) -> Iterator[Path]:
        """A private, empty folder on the store's file system; removed afterwards in any case."""
        with scratch(self._layout, "make a work folder") as folder:
            yield folder

    @contextmanager
    def resumable(self, key: Key) -> Iterator[Path]:
        """A work folder for the holder of ``key``'s lock, which a killed or interrupted build leaves for the next one.

        It is removed when the build ends in any other way, and after a week without another build.
        """
        with resumable(self._layout, key.digest, "make a work folder") as folder:
            yield folder

    def nearest(self, key: Key) -> tuple[str, ...] | None:
        """Why ``key`` is not there: dotted names of the fields in which the most similar entry differs.

        Looks at the 50 most recent entries of the stage, and among them at those for the same target; ``None`` if
        there is none.
        """
        with self._layout.translate("read the cache"):
            recent = maintenance.recent(self._layout, key.stage, _MOST_NEIGHBORS)
            others = [entry.key for entry in recent if entry.key.target == key.target and entry.key != key]
        return min((key.differences(other) for other in others), key=len, default=None)

    def remember(self, name: str, value: JSON) -> None:
        """Store a small JSON value under ``name`` (any text); an older value is replaced atomically."""
        with scratch(self._layout, f"remember {name}") as folder, self._layout.translate(f"remember {name}"):
            self._layout.make(self._layout.memo)
            write_new(folder / "memo", seal_memo(name, value, self._layout.seal))
            (folder / "memo").replace(self._memo(name))
            sync_folder(self._layout.memo)
        if self._shared is not None:
            self._shared.remember(name, value)

    def recall(self, name: str) -> JSON:
        """The JSON value stored under ``name``; ``None`` if there is none, or if it is damaged or not ours."""
        value = self._recall(name)
        return self._shared.recall(name) if value is None and self._shared is not None else value

    def _recall(self, name: str) -> JSON:
        with self._layout.translate(f"recall {name}"):
            try:
                data = read_plain(self._memo(name), RECORD_LIMIT)
            except StoreCorrupt:
                return None
        return unseal_memo(data, name, self._layout.seal)

    def _memo(self, name: str) -> Path:
        return self._layout.memo / f"{sha256_bytes(name.encode())}.json"

    def entries(self) -> Iterator[Stored]:
        """Every entry with a readable record, least recently used first; contents are not hashed."""
        with self._layout.translate("read the cache"):
            yield from maintenance.listing(self._layout)

    def size(self) -> int:
        """Bytes of all entries on disk, those set aside as corrupt included."""
        with self._layout.translate("read the cache"):
            return maintenance.total_size(self._layout)

    def verify(self) -> maintenance.VerifyReport:
        """Hash every entry. Corrupt ones are moved to ``corrupt/`` and reported, those of another key counted."""
        with self._layout.translate("verify the cache"):
            return maintenance.verify(self._layout)

    def prune(self, max_bytes: int | None = None, max_age_seconds: float | None = None) -> maintenance.PruneReport:
        """Remove corrupt entries, those of another key, entries unused for longer than ``max_age_seconds``, and then
        the least recently used ones until the rest fits into ``max_bytes``. Entries in use by any process are kept.
        """
        with self._layout.translate("prune the cache"):
            return maintenance.prune(self._layout, max_bytes, max_age_seconds)

    def clear(self) -> maintenance.PruneReport:
        """Remove everything that is not in use, remembered values included."""
        with self._layout.translate("clear the cache"):
            return maintenance.clear(self._layout)

    def _pin(self, digest: str, handle: int) -> None:
        """Keep a shared lock on an entry's record; beyond the limit the oldest is released."""
        stale = [self._pins.pop(digest)] if digest in self._pins else []
        self._pins[digest] = handle
        while len(self._pins) > _MOST_PINS:
            stale.append(self._pins.popitem(last=False)[1])
        for old in stale:
            os.close(old)


def _release(pins: OrderedDict[str, int]) -> None:
    """Close the handles and with them the shared locks. Never unlocks: a forked child shares the lock itself."""
    while pins:
        os.close(pins.popitem()[1])


def _size(draft: Draft) -> int:
    return sum((draft.folder / name).stat().st_size for name in draft.names if (draft.folder / name).is_file())
