"""The commands that run one stage: what it takes, what it makes, and the command that people usually need next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli import options
from trtpipe.cli.options import PATH, command
from trtpipe.cli.results import explained, finish, main_file, print_document, print_paths
from trtpipe.cli.tables import metadata, show
from trtpipe.cli.text import emit
from trtpipe.config.formats import INT8
from trtpipe.errors import InputError
from trtpipe.views.results import comparison, latency

if TYPE_CHECKING:
    from trtpipe.cli.session import Session

_MEANINGS = {
    "matched": "tensors have their range from the cache",
    "missing": "tensors are not in the cache: their nodes are kept in FP32",
    "unused": "tensors of the cache need no range in this model",
}


@command(
    options.source_argument,
    options.out_option,
    options.profile_file_option,
    options.recipe_file_option,
    options.shape_options,
    options.export_options,
    examples=(
        "trtpipe export mymodels.py:factory -o model.onnx",
        "trtpipe export model.pt2 --min-shapes x:1x3x224x224 --max-shapes x:8x3x224x224 -o model.onnx",
    ),
)
def export(session: Session, source: str) -> int:
    """Export a PyTorch model to ONNX, and compare the outputs of both.

    SOURCE is model.pt2, file.py:factory or package.module:factory; an .onnx file is checked and made self-contained.
    Shapes given with --min-shapes and --max-shapes make the dimensions in which they differ dynamic.
    """
    import trtpipe

    with session.listening() as progress:
        result = trtpipe.export(source, session.output, **session.request(progress))
    made = main_file(result)
    return finish(session, "export", result, ["simplify", str(made), "-o", str(made.with_name("simplified.onnx"))])


@command(
    click.argument("model", type=PATH),
    options.out_option,
    options.profile_file_option,
    options.precision_options,
    options.shape_options,
    options.shape_data_options,
    examples=("trtpipe simplify model.onnx -o simplified.onnx",),
)
def simplify(session: Session, model: Path) -> int:
    """Simplify a graph: the same function in fewer nodes.

    The result is compared with MODEL on random inputs of the shapes given. The precision matters only because BF16
    needs a newer opset.
    """
    import trtpipe

    with session.listening() as progress:
        result = trtpipe.simplify(model, session.output, **session.request(progress))
    made = main_file(result)
    return finish(
        session, "simplify", result, ["lower", str(made), "--fp16", "-o", str(made.with_name("lowered.onnx"))]
    )


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
    examples=(
        "trtpipe calibrate simplified.onnx --data photos/ --calib imagenet -o ranges.json",
        "trtpipe calibrate simplified.onnx --statistics statistics.npz --method entropy -o ranges.json",
    ),
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
            drawn = found[0] if len(found) == 1 else main_file(result).with_name("statistics.npz")
            made = trtpipe.plot_statistics(drawn, plot, precision=session.profile.precision.quantized or INT8)
            progress.note(f"plotted {len(made)} tensors into {plot}")
    return finish(session, "calibrate", result, [] if model is None else _lowering(model, main_file(result)))


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
    emit(metadata([(name, _listed(names, _MEANINGS[name], session.verbosity > 0)) for name, names in groups.items()]))
    print_paths([ranges], _lowering(model, ranges))
    return 0


def _listed(names: tuple[str, ...], meaning: str, detailed: bool) -> str:
    return "\n".join([f"{len(names)} {meaning}", *(names if detailed else ())])


def _lowering(model: Path, ranges: Path) -> list[str]:
    """The command people usually need next."""
    lowered = str(model.with_name("lowered.onnx"))
    return ["lower", str(model), "--int8", "--ranges", str(ranges), "-o", lowered]


@command(
    click.argument("model", type=PATH),
    options.out_option,
    options.precision_options,
    click.option("--ranges", type=PATH, metavar="R", help="ranges.json, for INT8 and FP8."),
    options.profile_file_option,
    options.weights_option,
    options.keep_option,
    options.explain_option,
    examples=(
        "trtpipe lower simplified.onnx --int8 --ranges ranges.json -o lowered.onnx",
        'trtpipe lower simplified.onnx --fp16 --keep "*/norm*" -o lowered.onnx',
    ),
)
def lower(session: Session, model: Path, ranges: Path | None, explain: str | None) -> int:
    """Write the precision into a graph: Q/DQ pairs, or casts.

    MODEL is a simplified graph. The precision of every node and the reason for it are recorded beside the result;
    trtpipe inspect shows them.
    """
    import trtpipe

    with session.listening() as progress:
        result = trtpipe.lower(model, session.output, ranges=ranges, **session.request(progress))
    made = main_file(result)
    if explain is not None:
        return explained(session, "lower", made, explain)
    return finish(session, "lower", result, ["verify", str(made), "--reference", str(model)])


@command(
    click.argument("lowered", type=PATH),
    options.out_option,
    options.precision_options,
    options.target_options,
    options.profile_file_option,
    options.shape_options,
    options.shape_data_options,
    options.builder_options,
    examples=("trtpipe compile lowered.onnx --target sm89 -o sm89.plan",),
)
def compile(session: Session, lowered: Path) -> int:
    """Build an engine from a lowered graph for every target.

    With --backend torch-tensorrt, LOWERED is the PyTorch source, a .pt2 file or a factory, compiled without ONNX in the
    precision given.

    OUT is a folder; for one target also a .plan or .engine file. The engine's record is written beside it.
    """
    import trtpipe

    with session.listening() as progress:
        result = trtpipe.compile(lowered, session.output, **session.request(progress))
    return finish(session, "compile", result)


@command(
    click.argument("candidate", type=PATH, required=False),
    click.option("--reference", type=PATH, metavar="MODEL", help="Reference graph."),
    click.option(
        "--reuse",
        type=PATH,
        metavar="PARITY",
        help="Apply tolerances to a parity.json and the outputs beside it, without running anything.",
    ),
    options.report_option,
    options.evaluation_options("--data"),
    options.recipe_file_option,
    options.tolerance_options,
    options.precision_options,
    options.profile_file_option,
    options.shape_options,
    options.target_options,
    examples=(
        "trtpipe verify lowered.onnx --reference model.onnx --data photos/ --calib imagenet",
        "trtpipe verify --reuse parity.json --atol logits:0.05",
    ),
)
def verify(session: Session, candidate: Path | None, reference: Path | None, reuse: Path | None) -> int:
    """Compare the outputs of a graph or an engine with a reference.

    CANDIDATE is a lowered graph or an engine. Without data, seeded random inputs are used. Default tolerances depend
    on the precision, which is recorded beside a graph made by trtpipe. Exit code 3 if the outputs or the metric exceed
    the tolerance. With --reuse, give neither CANDIDATE nor --reference.
    """
    import trtpipe

    if reuse is not None:
        if candidate is not None or reference is not None:
            raise InputError("--reuse applies tolerances to an earlier run: it runs nothing", "remove the other files")
        return finish(session, "verify", trtpipe.reevaluate(reuse, session.profile, session.out))
    if candidate is None or reference is None:
        missing = "CANDIDATE" if candidate is None else "--reference"
        raise InputError(f"{missing} is missing", "write trtpipe verify lowered.onnx --reference model.onnx")
    with session.listening() as progress:
        session.learn(candidate)
        result = trtpipe.verify(candidate, reference, session.out, **session.request(progress))
    return finish(session, "verify", result)


@command(
    click.argument("model", type=PATH),
    click.argument("other", type=PATH, required=False),
    click.option(
        "--graph", type=PATH, metavar="LOWERED", help="Lowered graph of the engine (default: lowered.onnx beside it)."
    ),
    options.report_option,
    options.protocol_options,
    options.batch_option,
    options.input_options,
    options.recipe_file_option,
    options.profile_file_option,
    options.shape_options,
    options.target_options,
    examples=(
        "trtpipe measure sm89.plan --batch 1,8,32",
        "trtpipe measure old.plan new.plan",
    ),
)
def measure(session: Session, model: Path, other: Path | None, graph: Path | None) -> int:
    """Measure the latency of an engine on a GPU, or of a graph on the CPU.

    MODEL is a plan or an ONNX file. CPU latency is labeled as such: it says nothing about a GPU. --shapes given several
    times, and --batch, measure at each shape. With OTHER both run alternately, and the ratio of their latencies is
    given with its confidence interval. Exit code 4 if the p99 on a GPU exceeds --max-p99.
    """
    import trtpipe

    with session.listening() as progress:
        session.learn(model)
        if other is None:
            result = trtpipe.measure(model, session.out, graph=graph, **session.request(progress))
        else:
            compared = trtpipe.compare_latency(model, other, session.out, graph=graph, **session.request(progress))
    if other is not None:
        session.out = None
        if session.json:
            return print_document("measure", {"comparison": compared.to_dict()})
        emit("\n".join(map(show, comparison(compared))))
        return 0
    if not session.json and result.latency is not None:
        emit("\n".join(map(show, latency(result.latency))))
    return finish(session, "measure", result)
