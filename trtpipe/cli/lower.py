"""``trtpipe lower``: simplified.onnx (and ranges) -> lowered.onnx."""

from __future__ import annotations

from pathlib import Path

import click

from trtpipe.cli import options
from trtpipe.cli.groups import TopicCommand
from trtpipe.cli.results import beside, explained, finish
from trtpipe.cli.session import Session
from trtpipe.cli.wiring import pass_session


@click.command(cls=TopicCommand)
@click.argument("model", type=click.Path(path_type=Path))
@options.out_option
@options.precision_options
@click.option("--ranges", type=click.Path(path_type=Path), metavar="R", help="ranges.json, for INT8 and FP8.")
@options.profile_file_option
@options.weights_option
@options.keep_option
@options.explain_option
@options.json_option
@options.common_options
@pass_session
def command(session: Session, model: Path, ranges: Path | None, explain: str | None) -> int:
    """Write the precision into a graph: Q/DQ pairs, or casts.

    MODEL is a simplified graph. The precision of every node and the reason for it are recorded beside the result;
    trtpipe inspect shows them.
    """
    import trtpipe

    with session.listening() as progress:
        result = trtpipe.lower(
            model,
            session.output,
            ranges=ranges,
            profile=session.profile,
            recipe=session.recipe,
            settings=session.settings,
            progress=progress,
        )
    made = beside(result)
    if explain is not None:
        return explained(session, "lower", Path(made()), explain)
    return finish(session, "lower", result, ["trtpipe", "verify", made(), "--reference", str(model)])
