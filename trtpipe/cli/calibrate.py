"""``trtpipe calibrate``: simplified.onnx and data -> ranges.json."""

from __future__ import annotations

from pathlib import Path

import click

from trtpipe.cli import options
from trtpipe.cli.results import beside, finish
from trtpipe.cli.session import Session
from trtpipe.cli.wiring import pass_session


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@options.out_option
@options.calibration_options("--data", "--samples", "--method")
@options.profile_file_option
@options.shape_options
@options.keep_option
@options.json_option
@options.common_options
@pass_session
def command(session: Session, model: Path) -> int:
    """Find the ranges of activations in one pass over real data.

    MODEL is a simplified graph. The statistics behind the ranges are written too, where OUT is a folder.
    """
    import trtpipe

    with session.listening() as progress:
        result = trtpipe.calibrate(session.job(progress, engines=False), model, session.output, progress)
    made = beside(result)
    lowered = str(model.with_name("lowered.onnx"))
    return finish(
        session, "calibrate", result, ["trtpipe", "lower", str(model), "--int8", "--ranges", made(), "-o", lowered]
    )
