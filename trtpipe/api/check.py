"""The public functions of regression: other tolerances on a verification, baselines, and builds against them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.accuracy.reports import ParityReport
from trtpipe.api.arguments import check_arguments
from trtpipe.api.remedies import explained
from trtpipe.api.request import profile_from
from trtpipe.api.results import BuildResult, reported, write_record
from trtpipe.backends.base import load_backend
from trtpipe.config.paths import path_of
from trtpipe.config.settings import Settings
from trtpipe.config.toolchain import machine
from trtpipe.errors import InputError
from trtpipe.pipeline.publish import write_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.api.arguments import ProfileLike
    from trtpipe.config.formats import Precision
    from trtpipe.config.paths import PathLike
    from trtpipe.latency.reports import Latency
    from trtpipe.progress import Progress
    from trtpipe.regression.baseline import Baseline
    from trtpipe.regression.bundle import Build
    from trtpipe.regression.gate import CheckReport, Finding, Status

PARITY, OUTPUTS = "parity.json", "outputs.json"


@explained
def reevaluate(parity: PathLike, profile: ProfileLike, out: PathLike | None = None) -> BuildResult:
    """Apply other tolerances to a verification without running anything: the outputs it kept are compared again.

    Args:
        parity: a ``parity.json`` (or its folder), with the ``outputs.json`` beside it.
        profile: its tolerances, and its accuracy gate if it names one; the precision is the report's own.
        out: where the new report goes; a folder or a file.

    Returns:
        The new report, and no steps.

    Raises:
        InputError: one of the files is missing or damaged, or they do not belong together.

    Example:
        >>> trtpipe.reevaluate("out/parity.json", trtpipe.DeploymentProfile(tolerance={"atol": 0.1})).accurate
        True
    """
    from trtpipe.accuracy.recording import INPUTS, load_outputs, replay
    from trtpipe.accuracy.verdict import with_verdict
    from trtpipe.config.shapes import check_outputs
    from trtpipe.report.verdict import Evidence, verdict_of

    path, wanted = path_of(parity, "parity"), profile_from({"profile": profile})
    path = path / PARITY if path.is_dir() else path
    report = ParityReport.read(path)
    saved = load_outputs(path.with_name(OUTPUTS))
    labels = [report.reference, *(comparison.artifact for comparison in report.comparisons)]
    if [label for label in saved if label != INPUTS] != labels:
        raise InputError(
            f"{path.with_name(OUTPUTS)}: holds outputs of {', '.join(saved) or 'nothing'}, the report is on "
            f"{', '.join(labels)}",
            "verify again",
        )
    check_outputs(next(iter(saved.values()))[0], wanted.tolerance)
    precisions: dict[str, Precision] = {
        label: report.precision for label in labels if label.startswith(("lowered", "engine"))
    }
    before = {link.artifact: link.against for link in report.links}
    run = replay(saved, precisions, before, wanted.tolerance, real=not report.synthetic)
    runners = {comparison.artifact: comparison.runner for comparison in report.comparisons}
    measured = report.metrics[0].metric if report.metrics else None
    limits = dict(wanted.accuracy.of(measured)) if "accuracy" in wanted.model_fields_set else {}
    again = report.model_copy(
        update={
            "feeds": run.feeds,
            "samples": round(report.samples * run.feeds / report.feeds),
            "comparisons": tuple(c.model_copy(update={"runner": runners[c.artifact]}) for c in run.comparisons),
            "links": tuple(c.model_copy(update={"runner": runners[c.artifact]}) for c in run.links),
            **limits,
        }
    )
    again = with_verdict(again)
    where = None if out is None else write_record(again, path_of(out, "out"), PARITY)
    return BuildResult(steps=(), out=where, verdict=verdict_of(Evidence(parity=again)), parity=again)


@explained
def check(
    build: PathLike,
    baseline: PathLike,
    *,
    settings: Settings | None = None,
    baseline_build: PathLike | None = None,
    min_metric: Mapping[str, float | str] | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Compare a build with a baseline: metric, parity, sizes, and latency where both builds are on this machine.

    Args:
        build: the folder that ``build`` wrote; or a hand-over that was finished, whose engine is then what is judged.
        baseline: a file that ``save_baseline`` wrote.
        baseline_build: the folder of the build the baseline was made of, to run both in turns; without it latency is
            not compared.
        min_metric: metric -> its least value (``"91%"``, ``0.91``), whatever the baseline's is; of an error, its
            largest.

    Raises:
        InputError: no such files; or the baseline is of another model, other data or another metric.

    Example:
        >>> trtpipe.check("out", "baseline.json").gate_passed("accuracy")
        True
    """
    from trtpipe.api.deliveries import is_package
    from trtpipe.api.finished import check_finished
    from trtpipe.regression.baseline import Baseline
    from trtpipe.regression.bundle import read_build
    from trtpipe.regression.gate import check_build

    check_arguments({"settings": settings, "progress": progress})
    folder, file = path_of(build, "build"), path_of(baseline, "baseline")
    known = Baseline.read(file)
    if is_package(folder):
        return check_finished(folder, known, file.name, min_metric or {})
    found = read_build(folder)
    report = check_build(found, known, file.name, min_metric or {})
    old = None if baseline_build is None else read_build(path_of(baseline_build, "baseline_build"))
    latency = _latency(known, found, old, settings or Settings.from_environment(), progress)
    return report.model_copy(update={"findings": (*report.findings, *latency)})


@explained
def save_baseline(build: PathLike, file: PathLike, reason: str = "") -> Baseline:
    """Make a baseline of a good build.

    Args:
        file: where it goes. It may only be there already if a reason is given to replace it; what its metrics were is
            kept with the reason.

    Raises:
        InputError: the build failed its own gates or was not verified, or there is a baseline and no reason.

    Example:
        >>> trtpipe.save_baseline("out", "good.json").metrics[0].metric
        'top1'
    """
    from trtpipe.regression.baseline import Baseline, Update, baseline_of
    from trtpipe.regression.bundle import read_build

    if not isinstance(reason, str):
        raise InputError(f"reason: {reason!r} is no text", 'give a str, such as reason="retrained"')
    where = path_of(file, "file")
    found = read_build(path_of(build, "build"))
    if found.manifest.passed is False:
        raise InputError(f"{build}: this build failed its own gates", "make a baseline of a good one")
    history: tuple[Update, ...] = ()
    if reason.strip() and not where.exists():
        raise InputError(f"{where}: there is no baseline to replace", "leave the reason out for the first one")
    if reason.strip():
        old = Baseline.read(where)
        metrics = {value.artifact: value.value for value in old.metrics}
        history = (*old.history, Update(reason=reason.strip(), metrics=metrics))
    elif where.exists():
        raise InputError(f"{where}: there is a baseline already", "say why it is replaced, with --update REASON")
    made = baseline_of(found, history)
    write_file(where, made.to_file() + "\n")
    return made


def _latency(
    baseline: Baseline, build: Build, old: Build | None, settings: Settings, progress: Progress | None
) -> list[Finding]:
    """Both builds in turns, if this machine is the baseline's and both are at hand."""
    from trtpipe.regression.bundle import entries
    from trtpipe.regression.gate import Finding

    def skipped(why: str) -> list[Finding]:
        return [Finding(gate="latency", name="latency", status="skipped", message=why)]

    if baseline.latency is None or build.latency is None:
        return skipped("one of the builds was not measured")
    here = [_hardware(found) for found in (baseline.latency.machine, build.latency.machine, machine())]
    if not here[0] == here[1] == here[2]:
        return skipped("the baseline was measured on another machine, so latency is not compared")
    if old is None:
        return skipped("name the baseline's own build with --baseline-build DIR to run both in turns")
    if entries(old.manifest.artifacts)["lowered"].digest != entries(baseline.artifacts)["lowered"].digest:
        raise InputError(f"{old.folder}: not the build that the baseline was made of", "give that one")
    several = len({figure.artifact for figure in build.latency.measurements}) < len(build.latency.measurements)
    with reported("latency", progress) as listener:
        return [
            _race(each, f"{each.artifact}, {each.on}" if several else each.artifact, build, old, settings, listener)
            for each in build.latency.measurements
        ]


def _hardware(found: Mapping[str, str | int]) -> dict[str, str | int]:
    """What of a machine's description decides how fast it is."""
    return {name: found[name] for name in ("cpu", "cores", "memory", "gpu") if name in found}


def _race(figure: Latency, name: str, build: Build, old: Build, settings: Settings, progress: Progress) -> Finding:
    """One artifact of both builds in turns. Only GPU latencies enter the gate."""
    from trtpipe.config.profile import MeasuringSettings
    from trtpipe.data.synthetic import RandomDataset
    from trtpipe.latency.alternating import alternate, evaluate, is_slower
    from trtpipe.preflight.onnx_io import read_contract
    from trtpipe.regression.gate import Finding

    backend = load_backend(build.manifest.backend if figure.on_gpu else "onnxruntime")
    settled = MeasuringSettings(cuda_graph=figure.cuda_graph, transfers="h2d" in figure.parts)
    feed = next(iter(RandomDataset(read_contract(build.path("lowered")), figure.shapes, samples=1, seed=0))).feed
    with (
        backend.open(old.path(figure.artifact), settings) as before,
        backend.open(build.path(figure.artifact), settings) as now,
    ):
        seconds = alternate(before, now, feed, settled, progress)
    found = evaluate(seconds, figure.shapes, "synthetic")
    words = (
        f"{found.old:.3g} ms before, {found.new:.3g} ms now, in turns: {found.ratio - 1:+.1%} "
        f"({found.confidence:.0%} interval {found.low - 1:+.1%} to {found.high - 1:+.1%}), {figure.runner}"
    )
    status: Status = "ok" if not is_slower(seconds) else "failed" if figure.on_gpu else "note"
    return Finding(gate="latency", name=f"latency of {name}", status=status, message=words)
