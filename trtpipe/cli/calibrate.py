"""``trtpipe calibrate``: simplified.onnx and data -> ranges.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli import options
from trtpipe.cli.options import PATH, command
from trtpipe.cli.results import beside, finish, print_document, print_paths
from trtpipe.cli.tables import facts
from trtpipe.cli.text import emit
from trtpipe.config.formats import INT8
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.cli.session import Session

_MEANINGS = {
    "matched": "tensors have their range from the cache",
    "missing": "tensors are not in the cache: their nodes are kept in FP32",
    "unused": "tensors of the cache need no range in this model",
}


@command(
    click.argument("files", type=PATH, nargs=-1, required=True, metavar="MODEL"),
    options.out_option,
    options.calibration_options("--data", "--samples", "--method"),
    click.option(
        "--statistics",
        type=PATH,
        multiple=True,
        metavar="S.npz",
        help="Statistics to use instead of data; may be repeated for shards, which are merged.",
    ),
    click.option(
        "--merge", is_flag=True, help="Merge statistics of shards: the arguments are statistics, not a model."
    ),
    click.option(
        "--import-trt-cache",
        "cache",
        type=PATH,
        metavar="FILE",
        help="Import the scales of a TensorRT calibration cache.",
    ),
    click.option(
        "--plot", type=PATH, metavar="DIR", help="Plot the histogram and thresholds of every tensor into DIR."
    ),
    options.profile_file_option,
    options.shape_options,
    options.keep_option,
)
def calibrate(
    session: Session,
    files: tuple[Path, ...],
    statistics: tuple[Path, ...],
    merge: bool,
    cache: Path | None,
    plot: Path | None,
) -> int:
    """Calibrate activation ranges on real data.

    MODEL is a simplified graph. The statistics are written beside the ranges. With --statistics, ranges are computed
    from statistics collected before (a folder stands for the statistics.npz in it), without a pass over data. To merge
    the statistics of shards without the model: trtpipe calibrate --merge A.npz B.npz C.npz -o OUT.
    """
    import trtpipe

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
    if plot is not None:
        from trtpipe.report.plots import require_matplotlib

        require_matplotlib()
    with session.listening() as progress:
        if found or model is None:
            result = trtpipe.ranges_from_statistics(
                found, session.output, simplified=model, **session.request(progress)
            )
        else:
            result = trtpipe.calibrate(
                model, session.output, allow_random=session.allow_random, **session.request(progress)
            )
        if plot is not None:
            drawn = found[0] if len(found) == 1 else Path(beside(result)("statistics.npz"))
            made = trtpipe.plot_statistics(drawn, plot, precision=session.profile.precision.quantized or INT8)
            progress.note(f"plotted {len(made)} tensors into {plot}")
    return finish(session, "calibrate", result, [] if model is None else _lowering(model, beside(result)()))


def _import(session: Session, model: Path, cache: Path, *, more: bool) -> int:
    import trtpipe

    if more or session.recipe_overrides or session.recipe_file or session.allow_random:
        raise InputError(
            "--import-trt-cache takes every range from the cache, and needs no data, method or statistics",
            "remove these options, or calibrate without --import-trt-cache",
        )
    out = session.output
    found = trtpipe.import_trt_cache(cache, model, out, session.profile.keep)
    session.out = None  # an interruption can no longer spoil it
    ranges = out / "ranges.json" if out.is_dir() else out
    groups = {"matched": found.matched, "missing": found.missing, "unused": found.unused}
    if session.json:
        return print_document("calibrate", {"out": str(ranges), **groups})
    emit(facts([(name, _listed(names, _MEANINGS[name], session.verbosity > 0)) for name, names in groups.items()]))
    print_paths([ranges], _lowering(model, str(ranges)))
    return 0


def _listed(names: tuple[str, ...], meaning: str, detailed: bool) -> str:
    return "\n".join([f"{len(names)} {meaning}", *(names if detailed else ())])


def _lowering(model: Path, ranges: str) -> list[str]:
    """The command people usually need next."""
    lowered = str(model.with_name("lowered.onnx"))
    return ["lower", str(model), "--int8", "--ranges", ranges, "-o", lowered]
