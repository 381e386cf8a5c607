"""``trtpipe inspect``: what is in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli import options
from trtpipe.cli.options import PATH, command
from trtpipe.cli.results import explained, print_document
from trtpipe.cli.tables import facts, show
from trtpipe.cli.text import emit
from trtpipe.config.units import format_bytes, printable
from trtpipe.errors import InputError
from trtpipe.views.results import sections

if TYPE_CHECKING:
    from trtpipe import Inspection
    from trtpipe.cli.session import Session


@command(
    click.argument("file", type=PATH),
    click.option(
        "--plot",
        type=PATH,
        metavar="DIR",
        help="Plot every tensor of statistics.npz (or of that beside ranges.json), with the threshold of each method.",
    ),
    options.explain_option,
)
def inspect(session: Session, file: Path, plot: Path | None, explain: str | None) -> int:
    """Describe a model, an engine, or a report.

    FILE is an .onnx file, a .pt2 file, a plan, ranges.json, statistics.npz, parity.json, latency.json or manifest.json,
    recognized by its content. For a model or an engine, the record beside it is shown too.
    """
    import trtpipe

    if explain is not None:
        return explained(session, "inspect", file, explain)
    found = trtpipe.inspect(file)
    drawn = () if plot is None else trtpipe.plot_statistics(_statistics_of(found), plot)
    if session.json:
        plots = {"plots": [str(path) for path in drawn]} if plot is not None else {}
        return print_document("inspect", {**found.to_dict(), **plots})
    emit(facts(_head(found)))
    for section in sections(found, detailed=session.verbosity > 0):
        emit("")
        emit(show(section))
    if plot is not None:
        emit(f"\nplotted {len(drawn)} tensors into {printable(str(plot))}")
    return 0


def _statistics_of(found: Inspection) -> Path:
    """The statistics to draw: the file itself, or what lies beside the ranges made from it."""
    path = Path(found.path)
    if found.statistics is not None:
        return path
    beside = path.with_name("statistics.npz")
    if found.ranges is None or not beside.is_file():
        what = "there is no statistics.npz beside it" if found.ranges is not None else f"it is of kind {found.kind}"
        raise InputError(
            f"{path}: nothing to plot: {what}",
            "name a statistics.npz, or a ranges.json beside the one it was made from",
        )
    return beside


def _head(found: Inspection) -> list[tuple[str, str]]:
    return [
        ("file", found.path),
        ("kind", found.kind),
        ("size", format_bytes(found.size)),
        ("sha256", found.sha256),
        *(("warning", note) for note in found.notes),
    ]
