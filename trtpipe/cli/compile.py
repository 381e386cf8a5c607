"""``trtpipe compile``: lowered.onnx -> one engine a target."""

from __future__ import annotations

from pathlib import Path

import click

from trtpipe.cli import options
from trtpipe.cli.builder_options import builder_options
from trtpipe.cli.groups import TopicCommand
from trtpipe.cli.results import finish
from trtpipe.cli.session import Session
from trtpipe.cli.wiring import pass_session


@click.command(cls=TopicCommand)
@click.argument("lowered", type=click.Path(path_type=Path))
@options.out_option
@options.precision_options
@options.target_options
@options.profile_file_option
@options.shape_options
@options.shape_data_options
@builder_options
@options.json_option
@options.common_options
@pass_session
def command(session: Session, lowered: Path) -> int:
    """Build an engine from a lowered graph for every target.

    With --backend torch-tensorrt, LOWERED is the PyTorch source, a .pt2 file or a factory, compiled without ONNX in the
    precision given.

    OUT is a folder; for one target also a .plan or .engine file. The engine's record is written beside it.
    """
    import trtpipe

    with session.listening() as progress:
        result = trtpipe.compile(
            lowered,
            session.output,
            profile=session.profile,
            recipe=session.recipe,
            settings=session.settings,
            progress=progress,
        )
    return finish(session, "compile", result)
