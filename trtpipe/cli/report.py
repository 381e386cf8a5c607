"""``trtpipe report``: a build as a self-contained HTML report."""

from __future__ import annotations

from pathlib import Path

import click

from trtpipe.cli import options
from trtpipe.cli.groups import TopicCommand
from trtpipe.cli.results import print_json
from trtpipe.cli.session import Session
from trtpipe.cli.text import emit
from trtpipe.cli.wiring import pass_session
from trtpipe.config.units import printable

_path = click.Path(path_type=Path)


@click.command(cls=TopicCommand)
@click.argument("build", type=_path)
@click.option("-o", "--out", type=_path, metavar="FILE", help="HTML file (default: BUILD/report.html).")
@click.option("--plots", is_flag=True, help="Plot every calibrated tensor with the threshold of each method.")
@options.json_option
@options.common_options
@pass_session
def command(session: Session, build: Path, out: Path | None, plots: bool) -> int:
    """Write a self-contained HTML report of a build.

    BUILD is a folder that trtpipe build wrote. The report needs no other file, network or script: verdicts, accuracy,
    latency, engine layers, the precision of every node and the reason for it, and the calibration.
    """
    import trtpipe

    path = trtpipe.write_report(build, out, plots=plots)
    if session.json:
        print_json({"command": "report", "exit_code": 0, "out": str(path)})
    else:
        emit(f"result: {printable(str(path))}")
    return 0
