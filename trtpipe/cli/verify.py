"""``trtpipe verify``: a graph or an engine against its reference."""

from __future__ import annotations

from pathlib import Path

import click

from trtpipe.cli import options
from trtpipe.cli.results import finish
from trtpipe.cli.session import Session
from trtpipe.cli.wiring import pass_session


@click.command()
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option(
    "--reference", type=click.Path(path_type=Path), required=True, metavar="MODEL", help="The graph that is right."
)
@options.report_option
@options.evaluation_options("--data")
@options.recipe_file_option
@options.tolerance_options
@options.precision_options
@options.profile_file_option
@options.shape_options
@options.target_options
@options.json_option
@options.common_options
@pass_session
def command(session: Session, candidate: Path, reference: Path) -> int:
    """Compare the outputs of a graph or an engine with a reference.

    CANDIDATE is a lowered graph or an engine. Without data, seeded random inputs are used. Tolerances follow from the
    precision, which a graph made by trtpipe tells itself. Exit code 3 if the outputs, or the metric, differ by more
    than is allowed.
    """
    import trtpipe

    with session.listening() as progress:
        engine = session.learn(candidate)
        job = session.job(progress, engines=engine)
        result = trtpipe.verify(job, candidate, session.out, reference, progress)
    return finish(session, "verify", result)
