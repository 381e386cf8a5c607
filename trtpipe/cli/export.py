"""``trtpipe export``: source -> model.onnx."""

from __future__ import annotations

import click

from trtpipe.cli import options
from trtpipe.cli.groups import TopicCommand
from trtpipe.cli.results import beside, finish
from trtpipe.cli.session import Session
from trtpipe.cli.wiring import pass_session


@click.command(cls=TopicCommand)
@click.argument("source")
@options.out_option
@options.profile_file_option
@options.shape_options
@options.export_options
@options.json_option
@options.common_options
@pass_session
def command(session: Session, source: str) -> int:
    """Export a PyTorch model to ONNX, and compare the outputs of both.

    SOURCE is model.pt2, file.py:factory or package.module:factory; an .onnx file is checked and made self-contained.
    Shapes given with --min-shapes and --max-shapes make the dimensions in which they differ dynamic.
    """
    import trtpipe

    with session.listening() as progress:
        result = trtpipe.export(
            source, session.output, profile=session.profile, settings=session.settings, progress=progress
        )
    made = beside(result)
    return finish(session, "export", result, ["trtpipe", "simplify", made(), "-o", made("simplified.onnx")])
