"""``trtpipe build``: the whole pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from trtpipe.cli import options
from trtpipe.cli.groups import TopicOption
from trtpipe.cli.options import command
from trtpipe.cli.results import finish, show_dry_run

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.cli.session import Session


@command(
    options.source_argument,
    options.out_option,
    options.precision_options,
    options.profile_file_option,
    options.calibration_options("--calib-data", "--calib-samples", "--calib-method"),
    options.evaluation_options("--eval-data"),
    options.target_options,
    options.shape_options,
    options.keep_option,
    options.builder_options,
    options.protocol_options,
    options.tolerance_options,
    options.export_options,
    options.no_simplify_option,
    click.option(
        "--locked",
        type=options.PATH,
        metavar="BUILD",
        cls=TopicOption,
        topic=options.ENGINE,
        common=False,
        help="Refuse other versions of TensorRT and other tools than this earlier build was made with.",
    ),
    click.option(
        "--handover",
        is_flag=True,
        cls=TopicOption,
        topic=options.ENGINE,
        common=False,
        help="Leave targets that cannot be built for here to machines of their own; see package make --handover.",
    ),
    click.option("--dry-run", is_flag=True, help="Show which stages would run, and why; run none."),
    examples=(
        "trtpipe build model.onnx --fp16 --target rtx4090 -o build/model",
        "trtpipe build model.onnx --int8 --calib-data photos/ --calib imagenet --target sm89,sm120 -o build/model",
        "trtpipe build mymodels.py:factory --best --calib-data data.npz --shapes x:1x3x224x224 -o build/model",
    ),
)
def build(session: Session, source: str, locked: Path | None, handover: bool, dry_run: bool) -> int:
    """Build verified engines from a model.

    SOURCE is model.onnx, model.pt2, file.py:factory or package.module:factory. Options override the files given with
    --profile and --calib, which override the defaults. OUT is the folder for every artifact, from the exported model to
    the engines; it changes only after all of them have been made. A bundle that fails a gate, or lacks an engine that
    could not be built, goes to OUT.rejected.
    """
    import trtpipe

    with session.listening() as progress:
        if dry_run:
            steps = trtpipe.dry_run(source, locked=locked, handover=handover, **session.model_request(progress))
            return show_dry_run(session, steps)
        result = trtpipe.build(
            source, session.output, locked=locked, handover=handover, **session.model_request(progress)
        )
    return finish(session, "build", result)
