"""What lies where in a shared store.

::

    <bucket>/trtpipe-store.json                         says what this is
    entries/<stage>/<digest[:2]>/<digest>-<seal>.json   an entry's sealed record, as in a cache, written last
    objects/<sha256[:2]>/<sha256>                       files of entries, by their content
    removed/...                                         records of pruned entries, whose files are kept for an hour yet
    leases/<digest>-<seal>                              one builder per key
    sent/<sha256[:2]>/<sha256>                          models and data that only the driver of a matrix had
    memo/<seal>/<sha256 of name>.json                   small JSON values
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import ValidationError

from trtpipe.digest import canonical_json
from trtpipe.errors import StoreCorrupt
from trtpipe.store.entry import Entry, is_entry_name, unseal
from trtpipe.store.layout import entry_name

if TYPE_CHECKING:
    from trtpipe.config.authenticity import Seal
    from trtpipe.store.key import Key

MARKER = "trtpipe-store.json"
RECORD_NAME = re.compile(r"entries/[a-z][a-z0-9_-]{0,63}/[0-9a-f]{2}/[0-9a-f]{64}-[0-9a-f]{16}\.json")
OBJECT_NAME = re.compile(r"objects/[0-9a-f]{2}/[0-9a-f]{64}")


def record_name(key: Key, by: Seal) -> str:
    """The name of the record of a key's entry."""
    return f"entries/{key.stage}/{key.digest[:2]}/{entry_name(key, by)}.json"


def object_name(sha256: str) -> str:
    """The name of a file, by its content."""
    return f"objects/{sha256[:2]}/{sha256}"


def read_record(data: bytes, by: Seal, key: Key | None = None) -> Entry:
    """The entry in a shared record.

    Raises:
        StoreCorrupt: it is damaged, not sealed with this key, or of another key than ``key``.
    """
    try:
        entry = Entry.model_validate(unseal(data, by))
    except (ValueError, ValidationError) as error:
        raise StoreCorrupt("its record is not as it was written", "build again") from error
    same = key is None or canonical_json(entry.key.document) == canonical_json(key.document)
    if entry.digest != entry.key.digest or not same or not all(is_entry_name(file.name) for file in entry.files):
        raise StoreCorrupt("its record is of another key", "build again")
    return entry
