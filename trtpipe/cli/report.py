"""``trtpipe report``: a build as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from trtpipe.cli import options
from trtpipe.cli.results import print_json
from trtpipe.cli.session import Session
from trtpipe.cli.text import emit
from trtpipe.cli.wiring import pass_session
from trtpipe.config.units import printable

_path = click.Path(path_type=Path)


@click.command()
@click.argument("build", type=_path)
@click.option(
    "-o", "--out", type=_path, metavar="FILE", help="The HTML file; by default report.html in the build's folder."
)
@click.option("--plots", is_flag=True, help="Draw every calibrated tensor, with each method's threshold.")
@options.json_option
@options.common_options
@pass_session
def command(session: Session, build: Path, out: Path | None, plots: bool) -> int:
    """Write a build as a self-contained HTML report.

    BUILD is a folder that trtpipe build wrote. The page needs no other file, no network and no script: verdicts,
    accuracy, latency, engines layer by layer, the precision of every node and why, and the calibration.
    """
    import trtpipe

    path = trtpipe.write_report(build, out, plots=plots)
    if session.json:
        print_json({"command": "report", "exit_code": 0, "out": str(path)})
    else:
        emit(f"result: {printable(str(path))}")
    return 0
