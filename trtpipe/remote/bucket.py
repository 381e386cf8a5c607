"""The little that trtpipe wants from an object store: whole objects under names, and writes with a condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trtpipe.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Denied(HostError):
    """The store knows the request and refuses it: wrong, expired or too few privileges."""


class Unreachable(HostError):
    """The store did not answer for too long."""


@dataclass(frozen=True)
class Blob:
    """A small object.

    Attributes:
        tag: names this very content; ``replace`` compares it (an entity tag, RFC 9110).
        modified: when it was written, in seconds since 1970 on the store's clock.
    """

    data: bytes
    tag: str
    modified: float


@dataclass(frozen=True)
class Listed:
    """An object without its content; the fields are those of ``Blob``, and its size in bytes."""

    name: str
    size: int
    modified: float


class Bucket(Protocol):
    """Objects under names such as ``entries/lower/ab``, seen by every machine as soon as they are written.

    Every method tries again, with random pauses, while the store cannot be reached or is busy.

    Raises:
        Denied: from every method: the credentials do not allow it.
        Unreachable: from every method: it could not be reached for too long.
        HostError: from every method: it failed for too long, or is full.
    """

    @property
    def url(self) -> str:
        """Where it is, without anything secret."""

    def get(self, name: str, limit: int) -> Blob | None:
        """A small object; ``None`` if there is none, or if it has more than ``limit`` bytes."""

    def head(self, name: str) -> Listed | None:
        """What a listing says of one object; ``None`` if there is none."""

    def download(self, name: str, path: Path | None, limit: int) -> str | None:
        """Write an object to a new file, flushed to the disk; ``None`` leaves it out.

        Args:
            limit: no more than so many bytes are read; a longer object has the digest of its beginning.

        Returns:
            The sha256 of what was read; ``None`` if there is no such object.
        """

    def put(self, name: str, data: bytes) -> None:
        """Write an object, or replace it."""

    def upload(self, name: str, path: Path) -> None:
        """The same with the content of a file, in several parts if it is large."""

    def create(self, name: str, data: bytes) -> str | None:
        """Write an object that is not there yet, and give its tag; ``None`` if there is one (``If-None-Match: *``)."""

    def replace(self, name: str, data: bytes, tag: str) -> str | None:
        """Replace the content that ``tag`` names, and give the new tag; ``None`` if it is no longer that
        (``If-Match``)."""

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is fine."""

    def list(self, prefix: str) -> Iterator[Listed]:
        """Every object whose name begins with the folder ``prefix``, which ends in a slash."""

    def now(self) -> float:
        """The time on the store's clock, in seconds since 1970, to a second."""
