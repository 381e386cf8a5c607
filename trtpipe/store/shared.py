"""What machines share of their stores: the same entries, in a bucket.

Whoever may write there may at most make others build again: a record counts where its seal proves that
a holder of this store's key wrote it, and a file where its digest is the one in the record. Anything else in the bucket
is never read and never removed.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from trtpipe.digest import JSON, sha256_bytes
from trtpipe.durable import sync_folder, write_new
from trtpipe.errors import HostError, StoreCorrupt
from trtpipe.remote import Lease, Unreachable, open_bucket
from trtpipe.store import shared_maintenance
from trtpipe.store.entry import RECORD, RECORD_LIMIT, Entry, seal_memo, unseal_memo
from trtpipe.store.layout import entry_name, seal_name
from trtpipe.store.shared_layout import MARKER, object_name, read_record, record_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trtpipe.artifact import FileEntry
    from trtpipe.config.authenticity import Seal
    from trtpipe.progress import Progress
    from trtpipe.remote import Bucket
    from trtpipe.store.key import Key
    from trtpipe.store.maintenance import PruneReport, VerifyReport
    from trtpipe.store.shared_maintenance import SharedEntry

_LAYOUT = b'{"trtpipe store": 1}\n'
_DAY = 24 * 3600.0


class SharedStore:
    """Entries that other machines have made, and a place for those made here.

    Args:
        url: where; see ``check_url``.
        term: after so many seconds without a sign of life another machine may take over a builder's work.
        patience: for how many seconds a request is tried again.

    Raises:
        InputError: the address is none.
        HostError: the store cannot be reached or read, or is that of something else.
    """

    def __init__(
        self, url: str, by: Seal, progress: Progress, term: float, patience: float = 60.0, bucket: Bucket | None = None
    ) -> None:
        self.bucket = open_bucket(url, patience) if bucket is None else bucket
        self.seal = by
        self._progress = progress
        self._term = term
        self._readonly = False
        self._known: set[str] = set()  # names of records that are surely there
        self._check()

    def _check(self) -> None:
        """See, before any work, that the store can be read, and is one."""
        found = self.bucket.get(MARKER, RECORD_LIMIT)
        if found is not None and found.data != _LAYOUT:
            raise HostError(
                f"the shared store {self.bucket.url} was made by another version of trtpipe",
                "choose another prefix for this one",
            )
        if found is None:
            with self._writing():
                self.bucket.create(MARKER, _LAYOUT)

    @property
    def readonly(self) -> bool:
        """Whether it was seen that nothing can be written there: it is full, or this user may not."""
        return self._readonly

    def fetch(self, key: Key, folder: Path) -> Entry | None:
        """Fill the empty ``folder`` with the entry for ``key``, verified and flushed; ``None`` if there is none.

        One that is damaged is removed, as far as this user may.
        """
        name = record_name(key, self.seal)
        found = self.bucket.get(name, RECORD_LIMIT)
        if found is None:
            return None
        try:
            entry = read_record(found.data, self.seal, key)
            for file in entry.files:
                self._download(file, folder)
        except StoreCorrupt as fault:
            self._progress.warn(f"{self.bucket.url}: {key.label} is built again: {fault.message}")
            with self._writing():
                self.bucket.delete(name)
            return None
        write_new(folder / RECORD, found.data)
        sync_folder(folder)
        self._known.add(name)
        self._refresh(name, found.data, found.tag, found.modified)
        return entry

    def peek(self, key: Key) -> Entry | None:
        """The entry for ``key`` if there is a sound record of it; its files are not looked at."""
        found = self.bucket.get(record_name(key, self.seal), RECORD_LIMIT)
        with suppress(StoreCorrupt):
            return None if found is None else read_record(found.data, self.seal, key)
        return None

    def _download(self, file: FileEntry, folder: Path) -> None:
        name = object_name(file.sha256)
        digest = self.bucket.download(name, folder / file.name, file.size + 1)
        if digest is None:
            raise StoreCorrupt(f"{file.name} is missing", "build again")
        if digest != file.sha256:
            with self._writing():
                self.bucket.delete(name)
            raise StoreCorrupt(f"{file.name} is not what was stored", "build again")

    def _refresh(self, name: str, data: bytes, tag: str, modified: float) -> None:
        """Write a record again that is in use, once a day: those written last are pruned last."""
        if time.time() - modified > _DAY and not self._readonly:
            with suppress(HostError):
                self.bucket.replace(name, data, tag)

    def push(self, key: Key, entry: Entry, folder: Path) -> bool:
        """Share the entry in ``folder``; false if another machine has shared one for the same key before.

        Where the store fails, or may not be written, that is said once and the entry stays on this machine.
        """
        name = record_name(key, self.seal)
        if name in self._known or self._readonly:
            return True
        with self._writing(f"{key.label} is on this machine only"):
            for file in entry.files:
                self.bucket.upload(object_name(file.sha256), folder / file.name)
            data = (folder / RECORD).read_bytes()
            while self.bucket.create(name, data) is None:
                found = self.bucket.get(name, RECORD_LIMIT)
                if found is None:
                    continue
                if self._is_sound(found.data, key):
                    self._known.add(name)
                    return found.data == data
                if self.bucket.replace(name, data, found.tag) is not None:
                    break
            self._known.add(name)
        return True

    def wants(self, key: Key) -> bool:
        """Whether it is not known that the entry for ``key`` is shared."""
        return not self._readonly and record_name(key, self.seal) not in self._known

    def share(self, key: Key, entry: Entry, folder: Path) -> None:
        """Share what this machine had before, unless it is shared already."""
        name = record_name(key, self.seal)
        if self.bucket.head(name) is None:
            self.push(key, entry, folder)
        self._known.add(name)

    def _is_sound(self, data: bytes, key: Key) -> bool:
        try:
            entry = read_record(data, self.seal, key)
        except StoreCorrupt:
            return False
        sizes = [self.bucket.head(object_name(file.sha256)) for file in entry.files]
        return all(
            found is not None and found.size == file.size for found, file in zip(sizes, entry.files, strict=True)
        )

    @contextmanager
    def lock(self, key: Key) -> Iterator[None]:
        """Be the only builder of ``key`` among all machines; where nothing can be written, among those of this one.

        Raises:
            HostError: the store cannot be reached.
        """
        name = f"leases/{entry_name(key, self.seal)}"
        waiting = f"waiting for another machine that builds {key.label}"
        with ExitStack() as stack:
            if not self._readonly:
                lease = Lease(self.bucket, name, self._term, lambda: self._progress.note(waiting))
                try:
                    stack.enter_context(lease)
                except Unreachable:
                    raise
                except HostError as error:
                    self._read_only(error)
                else:
                    if lease.taken_over:
                        self._progress.note(f"the machine that built {key.label} is gone, so it is built here")
            yield

    def remember(self, name: str, value: JSON) -> None:
        """Share a small value; see ``ArtifactStore.remember``."""
        with self._writing():
            self.bucket.put(self._memo(name), seal_memo(name, value, self.seal))

    def recall(self, name: str) -> JSON:
        """The value shared under ``name``; ``None`` if there is none, or if it is not ours."""
        found = self.bucket.get(self._memo(name), RECORD_LIMIT)
        return None if found is None else unseal_memo(found.data, name, self.seal)

    def _memo(self, name: str) -> str:
        return f"memo/{seal_name(self.seal)}/{sha256_bytes(name.encode())}.json"

    def entries(self) -> tuple[SharedEntry, ...]:
        """Every entry with a readable record, the oldest first."""
        return shared_maintenance.listing(self.bucket, self.seal)

    def verify(self) -> VerifyReport:
        """Hash every file of every entry. What is damaged is removed, so that it is built again; entries under other
        seals are counted.

        Raises:
            HostError: the store cannot be reached, or what is damaged may not be removed.
        """
        return shared_maintenance.verify(self.bucket, self.seal)

    def prune(
        self,
        max_bytes: int | None = None,
        max_age_seconds: float | None = None,
        grace_seconds: float = shared_maintenance.GRACE_SECONDS,
    ) -> PruneReport:
        """Remove damaged entries, those stored or used longer ago than ``max_age_seconds``, and then the oldest until
        the rest fits into ``max_bytes``. Entries under other seals, and what is not of a store, are left alone.

        Args:
            grace_seconds: how long files stay that belong to no entry any more: somebody may be fetching them.

        Raises:
            HostError: the store cannot be reached or written.
        """
        return shared_maintenance.prune(self.bucket, self.seal, max_bytes, max_age_seconds, grace_seconds)

    @contextmanager
    def _writing(self, instead: str = "") -> Iterator[None]:
        """Do what may fail: nothing but the shared copy is lost then."""
        try:
            yield
        except Unreachable as error:
            self._progress.warn(f"{error.message}{instead and f'; {instead}'}")
        except HostError as error:
            self._read_only(error)

    def _read_only(self, error: HostError) -> None:
        if self._readonly:
            return
        self._readonly = True
        self._progress.warn(f"{error.message}: results of this run stay on this machine ({error.remedy})")
