"""``trtpipe tune``: the smallest set of layers in higher precision that holds an accuracy budget."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING

import click

from trtpipe.cli import options
from trtpipe.cli.results import ACCURACY_FAILED, print_json
from trtpipe.cli.session import Session
from trtpipe.cli.tables import facts, line
from trtpipe.cli.text import emit
from trtpipe.cli.wiring import pass_session
from trtpipe.config.formats import DEFAULT_QUANTIZED
from trtpipe.config.units import parse_seconds, printable
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe import Budget, TuneResult, Tuning

_ROWS = 20


@click.command()
@click.argument("source")
@options.out_option
@click.option("--max-drop", metavar="0.5%", help="Budget: the metric may be this much worse than float32's.")
@click.option(
    "--min", "least", metavar="METRIC=VALUE", help="Budget: the metric has to reach this; of an error, not exceed."
)
@click.option("--time", "seconds", metavar="10min", help="Time for evaluations; run again to go on.")
@click.option("--no-recalibrate", is_flag=True, help="Keep the recipe's method of calibration.")
@options.precision_options
@options.profile_file_option
@options.calibration_options("--calib-data", "--calib-samples", "--calib-method")
@options.evaluation_options("--eval-data")
@options.shape_options
@options.keep_option
@options.no_simplify_option
@options.json_option
@options.common_options
@pass_session
def command(
    session: Session, source: str, max_drop: str | None, least: str | None, seconds: str | None, no_recalibrate: bool
) -> int:
    """Find the layers that must not be in 8 bits.

    SOURCE is what trtpipe build takes. OUT is the profile to write; the report lies beside it, and the recipe with
    the method of calibration that was taken. The metric is evaluated a dozen times at most. Exit code 3 if the budget
    cannot be met; the profile then holds the best that can.
    """
    import trtpipe

    budget = _budget(max_drop, least)
    time = None if seconds is None else _seconds(seconds)
    session.default_precision(DEFAULT_QUANTIZED)
    with session.listening() as progress:
        job = session.job(progress, source, engines=False)
        result = trtpipe.tune(
            job, budget, session.output, seconds=time, recalibrate=not no_recalibrate, progress=progress
        )
    session.out = None
    code = 0 if result.tuning.met else ACCURACY_FAILED
    if session.json:
        print_json(
            {
                "command": "tune",
                "exit_code": code,
                "files": [str(path) for path in result.files],
                "tuning": result.tuning.to_dict(),
            }
        )
        return code
    _show(result, session.verbosity > 0)
    emit(f"next:   {printable(shlex.join(_next(session, source, result)))}")
    return code


def _budget(max_drop: str | None, least: str | None) -> Budget:
    from trtpipe import Budget

    if (max_drop is None) == (least is None):
        raise InputError("tuning needs one budget", "give --max-drop 0.5%, or --min METRIC=VALUE")
    if max_drop is not None:
        drop = _number("--max-drop", max_drop)
        if drop < 0:
            raise InputError(f"--max-drop {max_drop}: less than nothing", "give a budget such as 0.5% or 0.005")
        return Budget(max_drop=drop)
    assert least is not None
    metric, _, value = least.rpartition("=")
    return Budget(least=_number("--min", value), metric=metric)


def _number(option: str, text: str) -> float:
    share = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{option}: {text!r} is not a number", "write 0.5% or 0.005; for --min METRIC=0.91")
    return value / 100 if share else value


def _seconds(text: str) -> float:
    try:
        value = parse_seconds(text)
    except ValueError as error:
        raise InputError(f"--time: {error}", "write 90s, 10min or 2h") from error
    if value <= 0:
        raise InputError(f"--time {text}: no time at all", "write 90s, 10min or 2h")
    return value


def _show(result: TuneResult, detailed: bool) -> None:
    tuning = result.tuning
    names = [*tuning.groups] if detailed else [*tuning.groups[:_ROWS]]
    more = len(tuning.groups) - len(names)
    metric = tuning.reference.metric
    emit(
        facts(
            [
                ("calibrations", "\n".join(_calibrations(tuning))),
                (f"{metric} in float32", f"{tuning.reference.value:.4f}"),
                (f"{metric} all lowered", f"{tuning.lowered.value:.4f}"),
                (f"{metric} tuned", f"{tuning.tuned.value:.4f} ({tuning.words})"),
                ("work in 8 bits", _share(tuning)),
                ("evaluations", str(tuning.evaluations)),
                ("kept", "\n".join([*names, *([f"and {more} more: --verbose"] if more else [])]) or "nothing"),
            ]
        )
    )  # fmt: skip
    loss = f"a loss of {tuning.tuned.loss(tuning.reference):+.4g}, limit {tuning.allowed:.4g}"
    if not tuning.met and not tuning.complete:
        emit(line(f"FAILED | time was up before anything held the budget: {loss}. Run again to go on"))
    elif not tuning.met:
        highest = "in float32" if tuning.allowed < 0 else "with everything in 16 bits"
        emit(line(f"FAILED | the budget cannot be met, not even {highest}: {loss}"))
    elif not tuning.complete:
        emit(line(f"PASSED | time was up; the best so far: {loss}. Run again to go on"))
    else:
        emit(line(f"PASSED | {loss}"))
    for path in result.files:
        emit(f"result: {printable(str(path))}")


def _share(tuning: Tuning) -> str:
    reached = f"; {tuning.reached:.1%} of what calibration samples reached" if tuning.reached != tuning.share else ""
    return f"{tuning.share:.1%}{reached}"


def _calibrations(tuning: Tuning) -> Iterator[str]:
    for each in tuning.calibrations:
        words = [f"{each.method}, weights {each.weights}", *each.corrections]
        words += [] if each.noise is None else [f"noise {each.noise:.1f} dB"]
        words += [] if each.loss is None else [f"{tuning.reference.metric} {0 - each.loss:+.3g}"]
        yield ", ".join(words) + (" (taken)" if each == tuning.calibration else "")


def _next(session: Session, source: str, result: TuneResult) -> list[str]:
    profile, _, recipe = result.files
    words = ["trtpipe", "build", source, "--profile", str(profile), "--calib", str(recipe)]
    return [*words, *([] if session.simplify else ["--no-simplify"]), "-o", "build"]
