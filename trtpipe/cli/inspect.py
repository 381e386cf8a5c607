"""``trtpipe inspect``: what is in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli import options
from trtpipe.cli.results import explained, print_json
from trtpipe.cli.sections import sections
from trtpipe.cli.session import Session
from trtpipe.cli.tables import facts
from trtpipe.cli.text import emit
from trtpipe.cli.wiring import pass_session
from trtpipe.units import format_bytes

if TYPE_CHECKING:
    from trtpipe import Inspection


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@options.explain_option
@options.json_option
@options.common_options
@pass_session
def command(session: Session, file: Path, explain: str | None) -> int:
    """Describe a model, an engine, or what trtpipe wrote.

    FILE is an .onnx file, a plan, ranges.json, statistics.npz, parity.json, latency.json or manifest.json. It is
    recognised by its content. For a model or an engine, what trtpipe wrote beside it is shown too.
    """
    import trtpipe

    if explain is not None:
        return explained(session, "inspect", file, explain)
    found = trtpipe.inspect(file)
    if session.json:
        print_json({"command": "inspect", "exit_code": 0, **found.to_dict()})
        return 0
    emit(facts(_head(found)))
    for section in sections(found, detailed=session.verbosity > 0):
        emit("")
        emit(section)
    return 0


def _head(found: Inspection) -> list[tuple[str, str]]:
    return [
        ("file", found.path),
        ("kind", found.kind),
        ("size", format_bytes(found.size)),
        ("sha256", found.sha256),
        *(("warning", note) for note in found.notes),
    ]
