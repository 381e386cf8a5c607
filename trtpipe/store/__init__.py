"""The store of artifacts, found by the key of what they were made from."""

from trtpipe.store.entry import Entry, Stored
from trtpipe.store.key import Key
from trtpipe.store.maintenance import PruneReport, VerifyReport
from trtpipe.store.shared import SharedStore
from trtpipe.store.store import ArtifactStore

__all__ = ["ArtifactStore", "Entry", "Key", "PruneReport", "SharedStore", "Stored", "VerifyReport"]
