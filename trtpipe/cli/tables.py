"""Tables for people, as text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from trtpipe.cli.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Columns of a table that nobody's window limits.
_UNLIMITED = 240
_STYLES = {"PASSED": "bold green", "FAILED": "bold red", "cached": "dim", "skipped": "dim", "missing": "bold red"}


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Rows under headers; what does not fit the window is continued on the next line, never cut.

    Args:
        headers: one a column; all empty for a table without a head.
        rows: cells; line breaks in them are kept.
        right: headers of the columns that are aligned to the right.
    """
    from rich import box
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD if any(headers) else None, show_header=any(headers), pad_edge=False, show_edge=False)
    for header in headers:
        grid.add_column(header, justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(_cell(text) for text in row))
    return _rendered(grid)


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, one pair a line."""
    return table(("", ""), pairs)


def line(text: str) -> str:
    """One line, its first word in colour if it is a verdict."""
    return _rendered(_cell(text))


def _cell(text: str) -> object:
    from rich.text import Text

    cell = Text("\n").join(Text(printable(part)) for part in text.split("\n"))
    first = text.split(" ", 1)[0]
    if first in _STYLES:
        cell.stylize(_STYLES[first], 0, len(first))
    return cell


def _rendered(what: object) -> str:
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not sys.stdout.isatty():
        console.width = _UNLIMITED
    with console.capture() as captured:
        console.print(what, soft_wrap=not hasattr(what, "columns"))
    return "\n".join(text.rstrip() for text in captured.get().splitlines())
