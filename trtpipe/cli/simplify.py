"""``trtpipe simplify``: model.onnx -> simplified.onnx."""

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
@options.profile_file_option
@options.precision_options
@options.shape_options
@options.json_option
@options.common_options
@pass_session
def command(session: Session, model: Path) -> int:
    """Rewrite a graph into the same function with fewer nodes.

    The result is compared with MODEL on random inputs. The precision matters only because bf16 needs a newer opset.
    Shapes are those of the check's inputs.
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
