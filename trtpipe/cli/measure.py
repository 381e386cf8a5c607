"""``trtpipe measure``: how long one inference takes."""

from __future__ import annotations

from pathlib import Path

import click

from trtpipe.cli import options
from trtpipe.cli.results import finish
from trtpipe.cli.session import Session
from trtpipe.cli.wiring import pass_session


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--graph",
    type=click.Path(path_type=Path),
    metavar="LOWERED",
    help="Graph an engine was built from; default: lowered.onnx beside it.",
)
@options.report_option
@options.latency_options
@options.profile_file_option
@options.shape_options
@options.target_options
@options.json_option
@options.common_options
@pass_session
def command(session: Session, model: Path, graph: Path | None) -> int:
    """Time an engine on a GPU, or a graph on the CPU.

    MODEL is a plan or an ONNX file. A CPU's figures say nothing about a GPU, and are labelled so. Exit code 4 if the
    p99 on a GPU exceeds --max-p99.
    """
    import trtpipe

    with session.listening() as progress:
        engine = session.learn(model)
        result = trtpipe.measure(session.job(progress, engines=engine), model, session.out, graph, progress)
    return finish(session, "measure", result)
