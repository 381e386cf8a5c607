"""``trtpipe verify``: a graph or an engine against its reference."""

from __future__ import annotations

from pathlib import Path

import click

from trtpipe.cli import options
from trtpipe.cli.groups import TopicCommand
from trtpipe.cli.results import finish
from trtpipe.cli.session import Session
from trtpipe.cli.wiring import pass_session
from trtpipe.errors import InputError


@click.command(cls=TopicCommand)
@click.argument("candidate", type=click.Path(path_type=Path), required=False)
@click.option("--reference", type=click.Path(path_type=Path), metavar="MODEL", help="Reference graph.")
@click.option(
    "--reuse",
    type=click.Path(path_type=Path),
    metavar="PARITY",
    help="Apply tolerances to a parity.json and the outputs beside it, without running anything.",
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
def command(session: Session, candidate: Path | None, reference: Path | None, reuse: Path | None) -> int:
    """Compare the outputs of a graph or an engine with a reference.

    CANDIDATE is a lowered graph or an engine. Without data, seeded random inputs are used. Default tolerances depend
    on the precision, which is recorded beside a graph made by trtpipe. Exit code 3 if the outputs or the metric exceed
    the tolerance. With --reuse, give neither CANDIDATE nor --reference.
    """
    import trtpipe

    if reuse is not None:
        if candidate is not None or reference is not None:
            raise InputError("--reuse applies tolerances to an earlier run: it runs nothing", "remove the other files")
        return finish(session, "verify", trtpipe.reevaluate(reuse, session.profile, session.out))
    if candidate is None or reference is None:
        missing = "CANDIDATE" if candidate is None else "--reference"
        raise InputError(f"{missing} is missing", "write trtpipe verify lowered.onnx --reference model.onnx")
    with session.listening() as progress:
        session.learn(candidate)
        result = trtpipe.verify(
            candidate,
            reference,
            session.out,
            profile=session.profile,
            recipe=session.recipe,
            settings=session.settings,
            progress=progress,
        )
    return finish(session, "verify", result)
