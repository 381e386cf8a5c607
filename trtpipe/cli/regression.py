"""The commands that compare builds: one with a baseline, and two with each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli.options import PATH, command, floors
from trtpipe.cli.results import ACCURACY_FAILED, LATENCY_FAILED, print_document
from trtpipe.cli.tables import line, table
from trtpipe.cli.text import emit
from trtpipe.config.units import printable
from trtpipe.errors import BuildError, InputError

if TYPE_CHECKING:
    from trtpipe import Baseline, BuildDiff, CheckReport
    from trtpipe.api.diff import Both
    from trtpipe.cli.session import Session
    from trtpipe.regression.gate import GateName

#: Rows of a long list that are shown without --verbose.
_ROWS = 20
_WORDS = {"ok": "PASSED", "failed": "FAILED", "note": "note", "skipped": "skipped"}


@command(
    click.argument("build", type=PATH),
    click.option("--baseline", type=PATH, metavar="FILE", help="The baseline to compare with."),
    click.option("--save-baseline", type=PATH, metavar="FILE", help="Save this build as a baseline."),
    click.option("--update", metavar="REASON", help="Replace the baseline with this build, and record the reason."),
    click.option(
        "--baseline-build",
        type=PATH,
        metavar="DIR",
        help="Build folder of the baseline, to measure both builds alternately on this machine.",
    ),
    click.option(
        "--min-metric", multiple=True, metavar="NAME=VALUE", help="Minimum value of the metric; of an error, maximum."
    ),
    click.option(
        "--upgrade",
        is_flag=True,
        help="Build the lowered graph with the other TensorRT versions found here, and compare the engines.",
    ),
    click.option(
        "--python",
        "pythons",
        type=PATH,
        multiple=True,
        metavar="PYTHON",
        help="With --upgrade: an environment with another TensorRT version; may be repeated.",
    ),
    click.option("--junit", type=PATH, metavar="FILE", help="Write JUnit XML."),
    click.option("--markdown", type=PATH, metavar="FILE", help="Write a summary for a pull request."),
    examples=(
        "trtpipe check build/model --save-baseline baseline.json",
        "trtpipe check build/model --baseline baseline.json --junit check.xml",
    ),
)
def check(
    session: Session,
    build: Path,
    baseline: Path | None,
    save_baseline: Path | None,
    update: str | None,
    baseline_build: Path | None,
    min_metric: tuple[str, ...],
    upgrade: bool,
    pythons: tuple[Path, ...],
    junit: Path | None,
    markdown: Path | None,
) -> int:
    """Compare a build with a baseline: a regression gate for CI.

    BUILD is a folder that trtpipe build wrote. Metrics are compared sample by sample with a paired significance
    test, and the output gives the minimum detectable drop of this data. Exit code 3 if accuracy regressed, 4 if only
    latency did.

    With --upgrade the engines are compared with those that other TensorRT versions build of the same lowered graph,
    node by node: precision, fusion, weights, memory. Exit code 3 if a precision or a weight differs, 4 if only fusion
    or memory became worse, 5 if an engine cannot be built.
    """
    import trtpipe

    if pythons and not upgrade:
        raise InputError("--python names an environment to upgrade to", "add --upgrade")
    if upgrade:
        if baseline is not None or save_baseline is not None or update is not None or min_metric or baseline_build:
            raise InputError("--upgrade compares engines, and takes no baseline", "run trtpipe check once for each")
        with session.listening() as progress:
            compared = trtpipe.check_upgrade(build, pythons, settings=session.settings, progress=progress)
        _write(junit, markdown, compared)
        return _shown(session, compared)
    if save_baseline is not None:
        if baseline is not None or update is not None:
            raise InputError(
                "--save-baseline makes a new baseline", "use --baseline FILE --update REASON to replace one"
            )
        return _saved(session, trtpipe.save_baseline(build, save_baseline), save_baseline)
    if baseline is None:
        raise InputError("--baseline is missing", "name the baseline, or make one with --save-baseline FILE")
    if update is not None:
        if not update.strip():
            raise InputError("--update needs a reason", "give the reason in a few words")
        return _saved(session, trtpipe.save_baseline(build, baseline, update), baseline)
    with session.listening() as progress:
        report = trtpipe.check(
            build,
            baseline,
            settings=session.settings,
            baseline_build=baseline_build,
            min_metric=floors(min_metric),
            progress=progress,
        )
    _write(junit, markdown, report)
    return _shown(session, report)


def _saved(session: Session, made: Baseline, file: Path) -> int:
    metrics = {value.artifact: value.value for value in made.metrics}
    if session.json:
        return print_document("check", {"baseline": str(file), "metrics": metrics})
    emit(f"baseline: {printable(str(file))}")
    for name, value in metrics.items():
        emit(f"{name}: {made.metrics[0].metric} {value:.4f}")
    return 0


def _write(junit: Path | None, markdown: Path | None, report: CheckReport) -> None:
    from trtpipe.config.os_errors import translate_os_errors
    from trtpipe.durable import replace_file
    from trtpipe.regression import ci_report

    for path, text in ((junit, ci_report.junit), (markdown, ci_report.markdown)):
        if path is not None:
            with translate_os_errors(path, f"write {path}", elsewhere="choose another file"):
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(path, text(report).encode())


def _shown(session: Session, report: CheckReport) -> int:
    codes: dict[GateName, int] = {
        "build": BuildError.exit_code,
        "accuracy": ACCURACY_FAILED,
        "latency": LATENCY_FAILED,
    }
    code = next((codes[gate] for gate in codes if not report.gate_passed(gate)), 0)
    if session.json:
        return print_document("check", {"passed": code == 0, "report": report.to_dict()}, code)
    rows = [(each.name, _WORDS[each.status], each.message.replace(". ", ".\n")) for each in report.findings]
    emit(table(("check", "verdict", "details"), rows))
    emit(line(report.headline))
    return code


@command(
    click.argument("old", type=PATH),
    click.argument("new", type=PATH),
    examples=("trtpipe diff build/before build/after",),
)
def diff(session: Session, old: Path, new: Path) -> int:
    """Show what differs between two builds.

    OLD and NEW are folders that trtpipe build wrote, of any models and precisions. Compared are settings, versions,
    weights, the precision of every layer, ranges, sizes, accuracy and latency.
    """
    import trtpipe

    found = trtpipe.diff(old, new)
    if session.json:
        return print_document("diff", {"diff": found.to_dict()})
    limit = None if session.verbosity > 0 else _ROWS
    shown = [*_lists(found, limit), *_tables(found, limit)]
    for text in shown:
        emit(text)
    if not shown:
        emit("no differences")
    return 0


def _lists(found: BuildDiff, limit: int | None) -> list[str]:
    weights = (f"{len(found.weights)} of {found.weights_in_all}: {', '.join(found.weights[:limit])}",)
    named = (
        ("settings", found.settings),
        ("versions", found.toolchain),
        ("weights", weights if found.weights else ()),
        ("engines", found.engines),
    )
    rows = [(name, "\n".join(_limited(lines, limit))) for name, lines in named if lines]
    return [table(("what", "old -> new"), rows)] if rows else []


def _tables(found: BuildDiff, limit: int | None) -> list[str]:
    moved = [(move.tensor, f"{move.old:.4g}", f"{move.new:.4g}", f"{move.octaves:+.2f}") for move in found.ranges]
    texts = [
        _pairs("nodes by precision", found.counts, limit),
        _pairs("precision of", found.precisions, limit),
        table(("range of", "old", "new", "octaves"), [*moved[:limit], *_rest(len(moved), limit, 4)]) if moved else "",
        _pairs("bytes of", found.sizes, limit),
        _pairs("metric", found.metrics, limit),
        _pairs("signal to noise of", found.parity, limit),
        _pairs("median latency of", found.latency, limit),
    ]
    return [text for text in texts if text]


def _pairs(header: str, rows: tuple[Both, ...], limit: int | None) -> str:
    cells = [(row.name, row.old, row.new) for row in rows]
    return table((header, "old", "new"), [*cells[:limit], *_rest(len(cells), limit, 3)]) if cells else ""


def _rest(count: int, limit: int | None, columns: int) -> list[tuple[str, ...]]:
    more = 0 if limit is None else count - limit
    return [(f"and {more} more: --verbose", *("",) * (columns - 1))] if more > 0 else []


def _limited(lines: tuple[str, ...], limit: int | None) -> list[str]:
    return [*lines[:limit], *(row[0] for row in _rest(len(lines), limit, 1))]
