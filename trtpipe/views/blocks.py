"""Metadata and tables, of which all output is made: the command line prints them, the HTML report shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Rows shown of a long list.
SOME = 20
VERDICTS = {True: "PASSED", False: "FAILED", None: "not judged"}


@dataclass(frozen=True)
class Metadata:
    """Names and values; line breaks in values are kept."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """Rows under headers.

    Attributes:
        right: headers of right-aligned columns.
        left_out: number of rows not shown.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[str, ...] = ()
    left_out: int = 0


Block: TypeAlias = Metadata | Table


def metadata(pairs: Iterable[tuple[str, str]]) -> Metadata:
    """Names and values; a name without a value is left out."""
    return Metadata(tuple((name, value) for name, value in pairs if value))


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = (), limit: int | None = None
) -> Table:
    """Rows under headers, at most ``limit`` of them."""
    shown = tuple(tuple(row) for row in rows[:limit])
    return Table(tuple(headers), shown, tuple(right), len(rows) - len(shown))


def notes(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Notes as metadata."""
    return [("note", text) for text in texts]
