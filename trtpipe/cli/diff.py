"""``trtpipe diff``: the differences between two builds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli.options import PATH, command
from trtpipe.cli.results import print_document
from trtpipe.cli.tables import table
from trtpipe.cli.text import emit

if TYPE_CHECKING:
    from trtpipe.api.diff import Both, BuildDiff
    from trtpipe.cli.session import Session

#: Rows of a long list that are shown without --verbose.
_ROWS = 20


@command(
    click.argument("old", type=PATH),
    click.argument("new", type=PATH),
)
def diff(session: Session, old: Path, new: Path) -> int:
    """Show what differs between two builds.

    OLD and NEW are folders that trtpipe build wrote, of any models and precisions. Compared are settings, versions,
    weights, the precision of every layer, ranges, sizes, accuracy and latency.
    """
    import trtpipe

    found = trtpipe.diff(old, new)
    if session.json:
        return print_document("diff", {"diff": found.to_dict()})
    limit = None if session.verbosity > 0 else _ROWS
    shown = [*_lists(found, limit), *_tables(found, limit)]
    for text in shown:
        emit(text)
    if not shown:
        emit("no differences")
    return 0


def _lists(found: BuildDiff, limit: int | None) -> list[str]:
    weights = (f"{len(found.weights)} of {found.weights_in_all}: {', '.join(found.weights[:limit])}",)
    named = (
        ("settings", found.settings),
        ("versions", found.toolchain),
        ("weights", weights if found.weights else ()),
        ("engines", found.engines),
    )
    rows = [(name, "\n".join(_limited(lines, limit))) for name, lines in named if lines]
    return [table(("what", "old -> new"), rows)] if rows else []


def _tables(found: BuildDiff, limit: int | None) -> list[str]:
    moved = [(move.tensor, f"{move.old:.4g}", f"{move.new:.4g}", f"{move.octaves:+.2f}") for move in found.ranges]
    texts = [
        _pairs("nodes by precision", found.counts, limit),
        _pairs("precision of", found.precisions, limit),
        table(("range of", "old", "new", "octaves"), [*moved[:limit], *_rest(len(moved), limit, 4)]) if moved else "",
        _pairs("bytes of", found.sizes, limit),
        _pairs("metric", found.metrics, limit),
        _pairs("signal to noise of", found.parity, limit),
        _pairs("median latency of", found.latency, limit),
    ]
    return [text for text in texts if text]


def _pairs(header: str, rows: tuple[Both, ...], limit: int | None) -> str:
    cells = [(row.name, row.old, row.new) for row in rows]
    return table((header, "old", "new"), [*cells[:limit], *_rest(len(cells), limit, 3)]) if cells else ""


def _rest(count: int, limit: int | None, columns: int) -> list[tuple[str, ...]]:
    more = 0 if limit is None else count - limit
    return [(f"and {more} more: --verbose", *("",) * (columns - 1))] if more > 0 else []


def _limited(lines: tuple[str, ...], limit: int | None) -> list[str]:
    return [*lines[:limit], *(row[0] for row in _rest(len(lines), limit, 1))]
