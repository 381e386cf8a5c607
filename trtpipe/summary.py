"""What a result says of itself: a line at the prompt, and in a notebook a table below it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from trtpipe.config.units import printable

#: Rows of a table in a notebook.
_ROWS = 40


@dataclass(frozen=True)
class Summary:
    """A result in a few words.

    Attributes:
        headline: one line.
        header, rows: a table of what it consists of; none where the line says it all.
    """

    headline: str
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


class Summarized:
    """A result of a public function, which has a ``summary``: its ``repr`` is one line, and notebooks show a table."""

    @property
    def summary(self) -> Summary:
        """What it is, in a few words."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {printable(self.summary.headline)}>"

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        """For notebooks; all texts are escaped."""
        found = self.summary
        lines = [f"<p><b>{type(self).__name__}</b> {_text(found.headline)}</p>"]
        if found.rows:
            rows = ["<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in found.rows[:_ROWS]]
            head = "".join(f"<th>{_text(cell)}</th>" for cell in found.header)
            lines += [f"<table><thead><tr>{head}</tr></thead><tbody>", *rows, "</tbody></table>"]
        if len(found.rows) > _ROWS:
            lines.append(f"<p>{len(found.rows) - _ROWS} more</p>")
        return "\n".join(lines)


def _text(value: str) -> str:
    return escape(printable(value))
