"""``trtpipe report``: a build as a self-contained HTML report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli.options import PATH, command
from trtpipe.cli.results import print_document, print_paths

if TYPE_CHECKING:
    from trtpipe.cli.session import Session


@command(
    click.argument("build", type=PATH),
    click.option("-o", "--out", type=PATH, metavar="FILE", help="HTML file (default: BUILD/report.html)."),
    click.option("--plots", is_flag=True, help="Plot every calibrated tensor with the threshold of each method."),
)
def report(session: Session, build: Path, out: Path | None, plots: bool) -> int:
    """Write a self-contained HTML report of a build.

    BUILD is a folder that trtpipe build wrote. The report needs no other file, network or script: verdicts, accuracy,
    latency, engine layers, the precision of every node and the reason for it, and the calibration.
    """
    import trtpipe

    path = trtpipe.write_report(build, out, plots=plots)
    if session.json:
        return print_document("report", {"out": str(path)})
    print_paths([path])
    return 0
