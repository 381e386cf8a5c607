"""The commands that look for layers to keep in higher precision: their ranking, and the smallest set for a budget."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli import options
from trtpipe.cli.groups import TopicOption
from trtpipe.cli.options import PATH, command, parsed
from trtpipe.cli.results import ACCURACY_FAILED, print_document, print_paths
from trtpipe.cli.tables import line, metadata, table
from trtpipe.cli.text import emit
from trtpipe.config.units import parse_amount, parse_seconds, printable
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe import Budget, Sensitivity, TuneResult, Tuning
    from trtpipe.cli.session import Session

#: Rows of a long list that are shown without --verbose.
_ROWS = 20


@command(
    options.source_argument,
    options.report_option,
    options.quantized_options,
    options.profile_file_option,
    options.calibration_options("--calib-data", "--calib-samples", "--calib-method"),
    options.shape_options,
    options.keep_option,
    options.no_simplify_option,
    click.option(
        "--samples", type=click.IntRange(min=1), default=64, metavar="N", help="Number of samples (default: 64)."
    ),
    click.option("--half", is_flag=True, help="Also measure every group in FP16."),
    click.option("--plot", type=PATH, metavar="FILE.png", help="Plot the ranking; needs matplotlib."),
    examples=("trtpipe sensitivity model.onnx --calib-data photos/ --calib imagenet -o sensitivity.json",),
)
def sensitivity(session: Session, source: str, samples: int, half: bool, plot: Path | None) -> int:
    """Rank layers by quantization sensitivity.

    SOURCE is what trtpipe build takes. Each group of layers alone is quantized to INT8 (or --fp8), and the model's
    outputs are compared with those in FP32: no labels are needed.
    """
    import trtpipe

    if plot is not None:
        from trtpipe.report.plots import require_matplotlib

        require_matplotlib()
    with session.listening() as progress:
        found = trtpipe.sensitivity(source, session.out, samples=samples, half=half, **session.model_request(progress))
    if plot is not None:
        trtpipe.plot_sensitivity(found, plot)
    if session.json:
        return print_document("sensitivity", {"sensitivity": found.to_dict()})
    _show_ranking(found, None if session.verbosity > 0 else _ROWS)
    print_paths([], ["tune", source, "--max-drop", "0.5%", "-o", "tuned.toml"])
    return 0


def _show_ranking(found: Sensitivity, limit: int | None) -> None:
    total = sum(group.macs for group in found.groups) + found.not_lowered or 1
    rows = [
        (
            group.name + (f" and {len(group.nodes) - 1} more" if len(group.nodes) > 1 else ""),
            ", ".join(group.operators),
            f"{group.macs / total:.1%}",
            f"{group.noise:.3g}",
            _decibel(group.noise),
            "" if group.half_noise is None else _decibel(group.half_noise),
        )
        for group in found.ranked[:limit]
    ]
    emit(table(("group", "operators", "MACs", "noise", f"SNR dB in {found.precision}", "SNR dB in fp16"), rows))
    hidden = len(found.groups) - len(rows)
    if hidden:
        emit(f"and {hidden} more groups: --verbose")
    emit(
        f"all {len(found.groups)} together: noise {found.all_noise:.3g} ({_decibel(found.all_noise)} dB), "
        f"{found.additivity:.2f} times the sum; {found.samples} samples of {printable(found.data)}"
    )


def _decibel(noise: float) -> str:
    return f"{-10 * math.log10(noise):.1f}" if noise > 0 else "inf"


@command(
    options.source_argument,
    options.out_option,
    click.option("--max-drop", metavar="0.5%", help="Budget: maximum drop of the metric from FP32."),
    click.option(
        "--min", "least", metavar="METRIC=VALUE", help="Budget: minimum value of the metric; of an error, maximum."
    ),
    click.option("--time", "seconds", metavar="10min", help="Time limit for evaluations; run again to continue."),
    click.option(
        "--no-recalibrate",
        is_flag=True,
        cls=TopicOption,
        topic=options.CALIBRATION,
        common=False,
        help="Keep the calibration method of the recipe.",
    ),
    options.quantized_options,
    options.profile_file_option,
    options.calibration_options("--calib-data", "--calib-samples", "--calib-method"),
    options.evaluation_options("--eval-data"),
    options.shape_options,
    options.keep_option,
    options.no_simplify_option,
    examples=("trtpipe tune model.onnx --max-drop 0.5% --calib C.toml --eval-data data.py:evaluation -o tuned.toml",),
)
def tune(
    session: Session, source: str, max_drop: str | None, least: str | None, seconds: str | None, no_recalibrate: bool
) -> int:
    """Find the layers to keep in higher precision for an accuracy budget.

    SOURCE is what trtpipe build takes. OUT is the profile to write; the report and the calibration recipe are written
    beside it. The metric is evaluated at most six times. Exit code 3 if the budget cannot be met; the profile is
    then the best one found.
    """
    import trtpipe

    budget = _budget(max_drop, least)
    time = None if seconds is None else _seconds(seconds)
    with session.listening() as progress:
        result = trtpipe.tune(
            source,
            budget,
            session.output,
            seconds=time,
            recalibrate=not no_recalibrate,
            **session.model_request(progress),
        )
    session.out = None
    code = 0 if result.tuning.met else ACCURACY_FAILED
    if session.json:
        files = [str(path) for path in result.files]
        return print_document("tune", {"files": files, "tuning": result.tuning.to_dict()}, code)
    _show_tuning(result, session.verbosity > 0)
    profile, _, recipe = map(str, result.files)
    plain = [] if session.simplify else ["--no-simplify"]
    print_paths(result.files, ["build", source, "--profile", profile, "--calib", recipe, *plain, "-o", "build"])
    return code


def _budget(max_drop: str | None, least: str | None) -> Budget:
    from trtpipe import Budget

    if (max_drop is None) == (least is None):
        raise InputError("tuning needs one budget", "give --max-drop 0.5%, or --min METRIC=VALUE")
    if max_drop is not None:
        return Budget(max_drop=parsed("--max-drop", parse_amount, max_drop))
    assert least is not None
    metric, _, value = least.rpartition("=")
    return Budget(least=parsed("--min", parse_amount, value), metric=metric)


def _seconds(text: str) -> float:
    value = parsed("--time", parse_seconds, text)
    if value <= 0:
        raise InputError(f"--time {text}: must be greater than 0", "write 90s, 10min or 2h")
    return value


def _show_tuning(result: TuneResult, detailed: bool) -> None:
    tuning = result.tuning
    names = [*tuning.groups] if detailed else [*tuning.groups[:_ROWS]]
    more = len(tuning.groups) - len(names)
    kept = [*names, *([f"and {more} more: --verbose"] if more else [])]
    metric, form = tuning.reference.metric, result.profile.precision.quantized_format
    emit(
        metadata(
            [
                ("calibrations", "\n".join(_calibrations(tuning))),
                (f"{metric} in FP32", f"{tuning.reference.value:.4f}"),
                (f"{metric} quantized", f"{tuning.lowered.value:.4f}"),
                (f"{metric} tuned", f"{tuning.tuned.value:.4f} ({tuning.words})"),
                (f"{form.name.upper()} coverage", _share(tuning)),
                ("evaluations", str(tuning.evaluations)),
                ("kept in higher precision", "\n".join(kept) or "nothing"),
            ]
        )
    )  # fmt: skip
    drop = f"{metric}: drop {tuning.tuned.loss(tuning.reference):+.4g}, limit {tuning.allowed:.4g}{_scope(tuning)}"
    if not tuning.met and not tuning.complete:
        emit(line(f"FAILED | time limit reached before the budget was met: {drop}. Run again to continue"))
    elif not tuning.met:
        highest = "in FP32" if tuning.allowed < 0 else "with every layer in FP16"
        emit(line(f"FAILED | the budget cannot be met, not even {highest}: {drop}"))
    elif not tuning.complete:
        emit(line(f"PASSED | time limit reached; best so far: {drop}. Run again to continue"))
    else:
        emit(line(f"PASSED | {drop}"))


def _scope(tuning: Tuning) -> str:
    """What the metric is of: no engine is built here."""
    runtime, _, device = tuning.tuned.runner.partition(" on ")
    place = f"{runtime.partition(' ')[0]}, {device.partition(',')[0]}"
    count = f", {tuning.tuned.samples} samples" if tuning.tuned.samples else ""
    return f", on the lowered graph ({place}{count}); no engine was built"


def _share(tuning: Tuning) -> str:
    reached = f"; {tuning.reached:.1%} of those that samples reached" if tuning.reached != tuning.share else ""
    return f"{tuning.share:.1%} of MACs{reached}"


def _calibrations(tuning: Tuning) -> Iterator[str]:
    for each in tuning.calibrations:
        words = [f"{each.method}, weights {each.weights}", *each.corrections]
        words += [] if each.noise is None else [f"noise {each.noise:.1f} dB"]
        words += [] if each.loss is None else [f"{tuning.reference.metric} {0 - each.loss:+.3g}"]
        yield ", ".join(words) + (" (chosen)" if each == tuning.calibration else "")
