"""A matrix as one self-contained HTML page: a table that can be sorted and filtered, all names escaped.

Its one script is in the page itself, allowed by its digest alone; a markup that got through could still run nothing.
"""

from __future__ import annotations

import base64
import hashlib
import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.config.paths import path_of
from trtpipe.config.units import format_bytes, format_seconds, printable
from trtpipe.farm.report import PAGE
from trtpipe.pipeline.publish import GENERATOR, write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from trtpipe.farm.report import CellResult, MatrixReport

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 100rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } input { font: inherit; padding: .2rem .4rem; min-width: 20rem; } .wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .7rem 0; font-size: .85rem; }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { border-bottom: 1px solid var(--line); } th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid; } th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tr:nth-child(even) td { background: var(--soft); } .right { text-align: right; font-variant-numeric: tabular-nums; }
.PASSED { color: #0a7d33; font-weight: 600; } .FAILED, .ERROR { color: #c62828; font-weight: 600; }
.NOT { color: #9a6700; }
"""
_SCRIPT = """
const body = document.querySelector("tbody"), rows = [...body.rows], count = document.getElementById("count");
document.getElementById("filter").addEventListener("input", event => {
  const words = event.target.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
    shown += !row.hidden;
  }
  count.textContent = shown;
});
document.querySelectorAll("th button").forEach((button, index) => button.addEventListener("click", () => {
  const head = button.parentElement, down = head.getAttribute("aria-sort") === "ascending";
  document.querySelectorAll("th").forEach(each => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = row => row.cells[index].dataset.value;
  const numbers = rows.every(row => value(row) === "" || !isNaN(value(row)));
  const order = (a, b) => numbers ? (value(a) === "" ? Infinity : +value(a)) - (value(b) === "" ? Infinity : +value(b))
                                  : value(a).localeCompare(value(b));
  rows.sort((a, b) => down ? order(b, a) : order(a, b)).forEach(row => body.append(row));
}));
"""
_HEADS = (
    *("verdict", "model", "recipe", "precision", "target", "backend", "metric", "drop", "size", "kernels", "p99"),
    *("built", "time", "details"),
)
_RIGHT = {"metric", "drop", "size", "kernels", "p99", "built", "time"}


def write_matrix_page(report: MatrixReport, out: str | os.PathLike[str]) -> Path:
    """Write ``matrix.html`` into the folder of a matrix.

    Args:
        report: what ``build_matrix`` returned.
        out: the folder.

    Returns:
        The file.

    Raises:
        InputError: a file of the user's is in the way.
        HostError: it cannot be written.

    Example:
        >>> trtpipe.write_matrix_page(trtpipe.build_matrix("matrix.toml", "cells"), "cells")
        PosixPath('cells/matrix.html')
    """
    path = path_of(out, "out") / PAGE
    write_file(path, matrix_page(report), named=False)
    return path


def matrix_page(report: MatrixReport) -> str:
    """The page's text."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    heads = "".join(
        f'<th scope="col"{_class(name in _RIGHT)}><button type="button">{name}</button></th>' for name in _HEADS
    )
    word = "FAILED" if report.exit_code else "PASSED"
    workers = ", ".join(dict.fromkeys(offer.name for offer in report.workers))
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width">',
            f'<meta name="generator" content="{GENERATOR}">',
            f"<title>{_text(report.headline)}</title><style>{_STYLE}</style></head><body>",
            f'<h1 class="{word}">{_text(report.headline)}</h1>',
            f"<p>trtpipe {_text(report.trtpipe)} on {_text(workers)}: {report.tasks} tasks in "
            f"{_text(format_seconds(report.seconds))}, {report.repeated} begun again after a worker died.</p>",
            '<p><label>Filter <input id="filter" type="search" placeholder="words that a row must have"></label> '
            f'<span id="count">{len(report.cells)}</span> cells</p>',
            f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>',
            *(f"<tr>{''.join(_cells(cell))}</tr>" for cell in report.cells),
            f"</tbody></table></div><script>{_SCRIPT}</script></body></html>\n",
        ]
    )


def _cells(cell: CellResult) -> Iterator[str]:
    word = cell.word
    figures = [part.figures for part in cell.parts if part.figures is not None]
    note = "" if cell.required else " (optional)"
    yield f'<td data-value="{word}" class="{word.partition(" ")[0]}">{word}{note}</td>'
    for text in (cell.model, cell.recipe, cell.precision, cell.target, cell.backend):
        yield f'<td data-value="{_text(text)}">{_text(text)}</td>'
    yield _number([each.value for each in figures], lambda value: f"{value:.4f}")
    yield _number([each.drop for each in figures], lambda value: f"{value:+.4f}")
    yield _number([cell.size], lambda value: format_bytes(int(value)))
    yield _number([cell.kernels], lambda value: f"{value:.0f}")
    yield _number([each.p99 for each in figures], lambda value: f"{value:.3f} ms")
    yield _number([cell.built], lambda value: f"{value:.0f} of {cell.built + cell.hits}")
    yield _number([cell.seconds], format_seconds)
    yield f'<td data-value="">{_text(cell.headline)}</td>'


def _number(values: Iterable[float | None], form: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    first = f"{known[0]:.9g}" if known else ""
    return f'<td data-value="{first}" class="right">{_text(", ".join(map(form, known)))}</td>'


def _class(right: bool) -> str:
    return ' class="right"' if right else ""


def _text(text: str) -> str:
    return escape(printable(text))
