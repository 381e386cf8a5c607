"""``trtpipe check``: a build against a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli import options
from trtpipe.cli.groups import TopicCommand
from trtpipe.cli.results import ACCURACY_FAILED, LATENCY_FAILED, print_json
from trtpipe.cli.session import Session
from trtpipe.cli.tables import line, table
from trtpipe.cli.text import emit
from trtpipe.cli.wiring import pass_session
from trtpipe.config.units import printable
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe import Baseline, CheckReport

_path = click.Path(path_type=Path)
_WORDS = {"ok": "PASSED", "failed": "FAILED", "note": "note", "skipped": "skipped"}


@click.command(cls=TopicCommand)
@click.argument("build", type=_path)
@click.option("--baseline", type=_path, metavar="FILE", help="The baseline to compare with.")
@click.option("--save-baseline", type=_path, metavar="FILE", help="Save this build as a baseline.")
@click.option("--update", metavar="REASON", help="Replace the baseline with this build, and record the reason.")
@click.option(
    "--baseline-build",
    type=_path,
    metavar="DIR",
    help="Build folder of the baseline, to measure both builds alternately on this machine.",
)
@click.option("--junit", type=_path, metavar="FILE", help="Write JUnit XML.")
@click.option("--markdown", type=_path, metavar="FILE", help="Write a summary for a pull request.")
@options.json_option
@options.common_options
@pass_session
def command(
    session: Session,
    build: Path,
    baseline: Path | None,
    save_baseline: Path | None,
    update: str | None,
    baseline_build: Path | None,
    junit: Path | None,
    markdown: Path | None,
) -> int:
    """Compare a build with a baseline: a regression gate for CI.

    BUILD is a folder that trtpipe build wrote. Metrics are compared sample by sample with a paired significance
    test, and the output gives the minimum detectable drop of this data. Exit code 3 if accuracy regressed, 4 if only
    latency did.
    """
    import trtpipe

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
            build, baseline, settings=session.settings, baseline_build=baseline_build, progress=progress
        )
    _write(junit, markdown, report)
    return _shown(session, report)


def _saved(session: Session, made: Baseline, file: Path) -> int:
    metrics = {value.artifact: value.value for value in made.metrics}
    if session.json:
        print_json({"command": "check", "exit_code": 0, "baseline": str(file), "metrics": metrics})
        return 0
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
    accurate, fast = report.gate_passed("accuracy"), report.gate_passed("latency")
    code = ACCURACY_FAILED if not accurate else 0 if fast else LATENCY_FAILED
    if session.json:
        print_json({"command": "check", "exit_code": code, "passed": code == 0, "report": report.to_dict()})
        return code
    rows = [(each.name, _WORDS[each.status], each.message.replace(". ", ".\n")) for each in report.findings]
    emit(table(("check", "verdict", "details"), rows))
    emit(line(f"{'PASSED' if code == 0 else 'FAILED'} | {report.build} against {report.baseline}"))
    return code
