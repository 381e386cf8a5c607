"""Tables for people, as text."""

from __future__ import annotations

import sys
from io import StringIO
from typing import TYPE_CHECKING

from trtpipe.config.units import printable
from trtpipe.views.blocks import Metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table
    from rich.text import Text

    from trtpipe.views.blocks import Block

#: Columns of a table where no window limits it.
_UNLIMITED = 240
_STYLES = {
    "PASSED": "bold green", "FAILED": "bold red", "NOT JUDGED": "bold yellow",
    "cached": "dim", "skipped": "dim", "missing": "bold red",
}  # fmt: skip


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Rows under headers; what does not fit the window is continued on the next line, never cut.

    Args:
        headers: one a column; all empty for a table without a head.
        rows: cells; line breaks in them are kept.
        right: headers of the columns that are aligned to the right.
    """
    from rich import box
    from rich.table import Table

    headed, rule = any(headers), "utf" in (sys.stdout.encoding or "").lower()
    grid = Table(box=box.SIMPLE_HEAD if headed and rule else None, show_header=headed, pad_edge=False, show_edge=False)
    for header in headers:
        grid.add_column(header, justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(_cell(text) for text in row))
    return _rendered(grid, wrap=True)


def metadata(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, one pair a line."""
    return table(("", ""), pairs)


def show(block: Block) -> str:
    """A block as text."""
    if isinstance(block, Metadata):
        return metadata(block.pairs)
    more = f"\n... and {block.left_out} more: --verbose shows all" if block.left_out else ""
    return table(block.headers, block.rows, right=block.right) + more


def line(text: str) -> str:
    """One line, its first word in color if it is a verdict."""
    return _rendered(_cell(printable(text)), wrap=False)


def _cell(text: str) -> Text:
    from rich.text import Text

    cell = Text("\n").join(Text(printable(part)) for part in text.split("\n"))
    first = next((word for word in _STYLES if text == word or text.startswith((f"{word} ", f"{word}:"))), "")
    if first:
        cell.stylize(_STYLES[first], 0, len(first))
    return cell


def _rendered(what: Text | Table, *, wrap: bool) -> str:
    from rich.console import Console

    terminal, written = sys.stdout.isatty(), StringIO()
    console = Console(
        file=written, force_terminal=terminal, width=None if terminal else _UNLIMITED, highlight=False, emoji=False
    )
    console.print(what, soft_wrap=not wrap)
    return "\n".join(text.rstrip() for text in written.getvalue().splitlines())
