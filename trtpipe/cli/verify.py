"""``trtpipe verify``: a graph or an engine against its reference."""

from __future__ import annotations

from pathlib import Path

import click

from trtpipe.cli import options
from trtpipe.cli.results import finish
from trtpipe.cli.session import Session
from trtpipe.cli.wiring import pass_session
from trtpipe.errors import InputError


@click.command()
@click.argument("candidate", type=click.Path(path_type=Path), required=False)
@click.option("--reference", type=click.Path(path_type=Path), metavar="MODEL", help="The graph that is right.")
@click.option(
    "--reuse",
    type=click.Path(path_type=Path),
    metavar="PARITY",
    help="Judge a parity.json again, by the outputs kept beside it, without running anything.",
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

    CANDIDATE is a lowered graph or an engine. Without data, seeded random inputs are used. Tolerances follow from the
    precision, which a graph made by trtpipe tells itself. Exit code 3 if the outputs, or the metric, differ by more
    than is allowed. With --reuse neither CANDIDATE nor --reference is given: tolerances are applied to what an earlier
    run kept.
    """
    import trtpipe

    if reuse is not None:
        if candidate is not None or reference is not None:
            raise InputError("--reuse judges an earlier run: there is nothing to run", "leave out the other files")
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
