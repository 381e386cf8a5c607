"""Keys: everything that decides the bytes of an artifact, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from trtpipe.artifact import Record
from trtpipe.digest import canonical_json, sha256_json

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Raised when the meaning of a key's fields changes, or the form of every record in a file: older keys are never met
#: again.
SCHEMA = 3


def _own_copy(value: dict[str, Any]) -> dict[str, Any]:
    """A private copy in plain JSON values; refuses what JSON cannot hold."""
    copy: dict[str, Any] = json.loads(canonical_json(value).encode())
    return copy


class Key(Record):
    """The name of an artifact before it exists.

    No field may hold a path, a time or anything else that differs between two machines that would build the same.

    Attributes:
        stage: the stage's name; also the folder of its entries.
        stage_version: raised by the stage when its code makes other bytes from the same input.
        target: the GPU target of an engine, otherwise ``None``.
        inputs: label of each input -> its content digest.
        settings: exactly the settings that change the bytes, as JSON values.
        toolchain: package -> version, for the packages the stage uses.
        backend: the back-end's fingerprint.
    """

    stage: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
    stage_version: int = 1
    target: str | None = None
    inputs: dict[str, str] = {}
    settings: Annotated[dict[str, Any], AfterValidator(_own_copy)] = {}
    toolchain: dict[str, str] = {}
    backend: dict[str, str] = {}

    @property
    def document(self) -> dict[str, Any]:
        """The key as the JSON document whose digest names the entry."""
        return {"schema": SCHEMA, **self.to_dict()}

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON of ``document``, 64 hex digits."""
        return sha256_json(self.document)

    @property
    def label(self) -> str:
        """How people name it: the stage, with the target where there is one."""
        return self.stage if self.target is None else f"{self.stage}:{self.target}"

    def differences(self, other: Key) -> tuple[str, ...]:
        """Dotted names of the fields in which two keys differ, sorted: ``("inputs.ranges", "settings.percentile")``."""
        mine, theirs = dict(_leaves(self.document)), dict(_leaves(other.document))
        return tuple(sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)))


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, canonical JSON) of everything in ``value`` that is not itself a table with keys."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else key)
    elif value != {}:
        yield name, canonical_json(value)
