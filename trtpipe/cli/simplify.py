"""``trtpipe simplify``: model.onnx -> simplified.onnx."""

from __future__ import annotations

from pathlib import Path

import click

from trtpipe.cli import options
from trtpipe.cli.groups import TopicCommand
from trtpipe.cli.results import beside, finish
from trtpipe.cli.session import Session
from trtpipe.cli.wiring import pass_session


@click.command(cls=TopicCommand)
@click.argument("model", type=click.Path(path_type=Path))
@options.out_option
@options.profile_file_option
@options.precision_options
@options.shape_options
@options.json_option
@options.common_options
@pass_session
def command(session: Session, model: Path) -> int:
    """Simplify a graph: the same function in fewer nodes.

    The result is compared with MODEL on random inputs of the shapes given. The precision matters only because BF16
    needs a newer opset.
    """
    import trtpipe

    with session.listening() as progress:
        result = trtpipe.simplify(
            model,
            session.output,
            profile=session.profile,
            settings=session.settings,
            simplify=session.simplify,
            progress=progress,
        )
    made = beside(result)
    return finish(session, "simplify", result, ["trtpipe", "lower", made(), "--fp16", "-o", made("lowered.onnx")])
