"""``trtpipe measure``: how long one inference takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli import latency_options, options
from trtpipe.cli.results import finish, print_json
from trtpipe.cli.session import Session
from trtpipe.cli.tables import show
from trtpipe.cli.text import emit
from trtpipe.cli.wiring import pass_session
from trtpipe.views.results import comparison, latency

if TYPE_CHECKING:
    from trtpipe import LatencyComparison

_path = click.Path(path_type=Path)


@click.command()
@click.argument("model", type=_path)
@click.argument("other", type=_path, required=False)
@click.option(
    "--graph", type=_path, metavar="LOWERED", help="Graph an engine was built from; default: lowered.onnx beside it."
)
@options.report_option
@latency_options.protocol
@latency_options.sweep
@latency_options.data
@options.recipe_file_option
@options.profile_file_option
@options.shape_options
@options.target_options
@options.json_option
@options.common_options
@pass_session
def command(session: Session, model: Path, other: Path | None, graph: Path | None) -> int:
    """Time an engine on a GPU, or a graph on the CPU; or two of them in turns.

    MODEL is a plan or an ONNX file. A CPU's figures say nothing about a GPU, and are labeled so. --shapes given
    several times, and --batch, measure at each shape. With OTHER both run in turns, and the ratio of their times is
    told with its confidence interval. Exit code 4 if the p99 on a GPU exceeds --max-p99.
    """
    import trtpipe

    with session.listening() as progress:
        engine = session.learn(model)
        job = session.job(progress, engines=engine)
        if other is not None:
            return _compared(session, trtpipe.compare_latency(job, model, other, session.out, graph, progress))
        result = trtpipe.measure(job, model, session.out, graph, progress)
    if not session.json and result.latency is not None:
        emit("\n".join(map(show, latency(result.latency))))
    return finish(session, "measure", result)


def _compared(session: Session, found: LatencyComparison) -> int:
    session.out = None
    if session.json:
        print_json({"command": "measure", "exit_code": 0, "comparison": found.to_dict()})
    else:
        emit("\n".join(map(show, comparison(found))))
    return 0
