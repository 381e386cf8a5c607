"""``trtpipe calibrate``: simplified.onnx and data -> ranges.json."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli import options
from trtpipe.cli.results import beside, finish, print_json
from trtpipe.cli.session import Session
from trtpipe.cli.tables import facts
from trtpipe.cli.text import emit
from trtpipe.cli.wiring import pass_session
from trtpipe.config.formats import INT8
from trtpipe.config.units import printable
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe import BuildResult, Progress

_path = click.Path(path_type=Path)
_MEANINGS = {
    "matched": "tensors have their range from the cache",
    "missing": "tensors are not in the cache: their nodes stay in float32",
    "unused": "tensors of the cache need no range in this model",
}


@click.command()
@click.argument("files", type=_path, nargs=-1, required=True, metavar="MODEL")
@options.out_option
@options.calibration_options("--data", "--samples", "--method")
@click.option(
    "--statistics",
    type=_path,
    multiple=True,
    metavar="S.npz",
    help="Statistics to take instead of a pass over data; may be repeated for shards, which are merged.",
)
@click.option(
    "--merge", is_flag=True, help="The arguments are statistics of shards, not a model: merge them and choose ranges."
)
@click.option(
    "--import-trt-cache", "cache", type=_path, metavar="FILE", help="Take the scales of a TensorRT calibration cache."
)
@click.option("--plot", type=_path, metavar="DIR", help="Draw every tensor's statistics and thresholds into DIR.")
@options.profile_file_option
@options.shape_options
@options.keep_option
@options.json_option
@options.common_options
@pass_session
def command(
    session: Session,
    files: tuple[Path, ...],
    statistics: tuple[Path, ...],
    merge: bool,
    cache: Path | None,
    plot: Path | None,
) -> int:
    """Calibrate activation ranges on real data, in one pass.

    MODEL is a simplified graph. The statistics behind the ranges are written beside them; with --statistics, ranges
    come from statistics collected before, here or elsewhere (a folder stands for the statistics.npz in it). To merge
    the statistics of shards without the model: trtpipe calibrate --merge A.npz B.npz C.npz -o OUT.
    """
    model: Path | None
    if merge:
        if statistics or cache is not None:
            raise InputError("--merge takes statistics as its arguments", "name every file of statistics once")
        model, statistics = None, files
    elif len(files) > 1:
        raise InputError(f"{files[1]}: one model is calibrated at a time", "name one model, or --merge statistics")
    else:
        model = files[0]
    if cache is not None and model is not None:
        return _import(session, model, cache, more=bool(statistics or plot))
    found = tuple(path / "statistics.npz" if path.is_dir() else path for path in statistics)
    with session.listening() as progress:
        result = _calibrate(session, model, found, plot, progress)
    return finish(session, "calibrate", result, () if model is None else _lowering(model, beside(result)()))


def _calibrate(
    session: Session, model: Path | None, statistics: tuple[Path, ...], plot: Path | None, progress: Progress
) -> BuildResult:
    import trtpipe

    if plot is not None:
        from trtpipe.report.plots import require_matplotlib

        require_matplotlib()
    job = session.job(progress, engines=False)
    if statistics or model is None:
        result = trtpipe.ranges_from_statistics(job, model, statistics, session.output, progress)
    else:
        result = trtpipe.calibrate(job, model, session.output, progress)
    if plot is not None:
        drawn = statistics[0] if len(statistics) == 1 else Path(beside(result)("statistics.npz"))
        made = trtpipe.plot_statistics(drawn, plot, precision=job.profile.precision.quantized or INT8)
        progress.note(f"drew {len(made)} tensors into {plot}")
    return result


def _import(session: Session, model: Path, cache: Path, *, more: bool) -> int:
    import trtpipe

    if more or session.recipe_overrides or session.recipe_file or session.allow_random:
        raise InputError(
            "--import-trt-cache takes every range from the cache, and needs no data, method or statistics",
            "leave these options away, or calibrate anew without --import-trt-cache",
        )
    out = session.output
    found = trtpipe.import_trt_cache(cache, model, out, session.profile.keep)
    session.out = None  # an interruption can no longer spoil it
    ranges = out / "ranges.json" if out.is_dir() else out
    groups = {"matched": found.matched, "missing": found.missing, "unused": found.unused}
    if session.json:
        print_json({"command": "calibrate", "exit_code": 0, "out": str(ranges), **groups})
        return 0
    emit(facts([(name, _listed(names, _MEANINGS[name], session.verbosity > 0)) for name, names in groups.items()]))
    emit(f"result: {printable(str(ranges))}")
    emit(f"next:   {printable(shlex.join(_lowering(model, str(ranges))))}")
    return 0


def _listed(names: tuple[str, ...], meaning: str, detailed: bool) -> str:
    return "\n".join([f"{len(names)} {meaning}", *(names if detailed else ())])


def _lowering(model: Path, ranges: str) -> list[str]:
    """The command people usually need next."""
    lowered = str(model.with_name("lowered.onnx"))
    return ["trtpipe", "lower", str(model), "--int8", "--ranges", ranges, "-o", lowered]
