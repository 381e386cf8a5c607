"""``trtpipe build``: the whole pipeline."""

from __future__ import annotations

import click

from trtpipe.cli import latency_options, options
from trtpipe.cli.builder_options import builder_options
from trtpipe.cli.groups import TopicCommand
from trtpipe.cli.results import finish, show_dry_run
from trtpipe.cli.session import Session
from trtpipe.cli.wiring import pass_session


@click.command(cls=TopicCommand)
@click.argument("source")
@options.out_option
@options.precision_options
@options.profile_file_option
@options.calibration_options("--calib-data", "--calib-samples", "--calib-method")
@options.evaluation_options("--eval-data")
@options.target_options
@options.shape_options
@options.keep_option
@builder_options
@latency_options.protocol
@options.tolerance_options
@options.export_options
@options.no_simplify_option
@click.option("--dry-run", is_flag=True, help="Show which stages would run, and why; run none.")
@options.json_option
@options.common_options
@pass_session
def command(session: Session, source: str, dry_run: bool) -> int:
    """Build verified engines from a model.

    SOURCE is model.onnx, model.pt2, file.py:factory or package.module:factory. Options override the files given with
    --profile and --calib, which override the defaults. OUT is the folder for every artifact, from the exported model to
    the engines; it changes only after all of them have been made. A bundle that fails a gate, or lacks an engine that
    could not be built, goes to OUT.rejected.
    """
    import trtpipe

    with session.listening() as progress:
        if dry_run:
            steps = trtpipe.dry_run(
                source,
                profile=session.profile,
                recipe=session.recipe,
                settings=session.settings,
                simplify=session.simplify,
                allow_random=session.allow_random,
                progress=progress,
            )
            return show_dry_run(session, steps)
        result = trtpipe.build(
            source,
            session.output,
            profile=session.profile,
            recipe=session.recipe,
            settings=session.settings,
            simplify=session.simplify,
            allow_random=session.allow_random,
            progress=progress,
        )
    return finish(session, "build", result)
