"""The commands that show what there is: in a file, in a build, and on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli import options
from trtpipe.cli.options import PATH, command
from trtpipe.cli.results import explained, print_document, print_paths
from trtpipe.cli.tables import line, metadata, show, table
from trtpipe.cli.text import emit
from trtpipe.config.formats import FORMATS
from trtpipe.config.units import format_bytes, printable
from trtpipe.errors import HostError, InputError
from trtpipe.views.results import sections

if TYPE_CHECKING:
    from trtpipe import Diagnosis, Inspection
    from trtpipe.cli.session import Session

#: Products that stand for a target.
_PRODUCTS = 3


@command(
    click.argument("file", type=PATH),
    click.option(
        "--plot",
        type=PATH,
        metavar="DIR",
        help="Plot every tensor of statistics.npz (or of that beside ranges.json), with the threshold of each method.",
    ),
    options.explain_option,
    examples=(
        "trtpipe inspect build/model",
        'trtpipe inspect build/model/lowered.onnx --explain "conv1*"',
    ),
)
def inspect(session: Session, file: Path, plot: Path | None, explain: str | None) -> int:
    """Describe a model, an engine, a report, or any other file that trtpipe writes.

    FILE is recognized by its content: an .onnx file, a .pt2 file, a plan, a bundle's folder or manifest.json, reports,
    statistics, ranges, saved outputs, a baseline, a profile, a recipe and others. For a model or an engine, the record
    beside it is shown too. Exit code 2 if a file of a bundle was changed since the build.
    """
    import trtpipe

    if explain is not None:
        return explained(session, "inspect", file, explain)
    found = trtpipe.inspect(file)
    code = InputError.exit_code if found.altered else 0
    drawn = () if plot is None else trtpipe.plot_statistics(_statistics_of(found), plot)
    if session.json:
        plots = {"plots": [str(path) for path in drawn]} if plot is not None else {}
        return print_document("inspect", {**found.to_dict(), **plots}, code)
    emit(metadata(_head(found)))
    for section in sections(found, detailed=session.verbosity > 0):
        emit("")
        emit(show(section))
    if plot is not None:
        emit(f"\nplotted {len(drawn)} tensors into {printable(str(plot))}")
    return code


@command(
    click.argument("build", type=PATH),
    click.option("-o", "--out", type=PATH, metavar="FILE", help="HTML file (default: BUILD/report.html)."),
    click.option("--plots", is_flag=True, help="Plot every calibrated tensor with the threshold of each method."),
    click.option("--against", type=PATH, metavar="DIR", help="Another build, to show what changed since."),
    click.option("--sensitivity", type=PATH, metavar="FILE", help="A sensitivity.json of the model, to plot it."),
    click.option("--images", metavar="DATA", help="The evaluation data, to show the samples that changed most."),
    examples=("trtpipe report build/model", "trtpipe report build/after --against build/before --images photos/"),
)
def report(
    session: Session,
    build: Path,
    out: Path | None,
    plots: bool,
    against: Path | None,
    sensitivity: Path | None,
    images: str | None,
) -> int:
    """Write a self-contained HTML report of a build.

    BUILD is a folder that trtpipe build wrote. The report needs no other file, network or script: the verdict and its
    scope, errors of outputs by sample and channel, every kernel of the engines, latency, the precision of every node
    and the reason for it, and the calibration. It shows no sample of the data unless --images asks for it.
    """
    import trtpipe

    path = trtpipe.write_report(build, out, plots=plots, against=against, sensitivity=sensitivity, images=images)
    if session.json:
        return print_document("report", {"out": str(path)})
    print_paths([path])
    return 0


def _statistics_of(found: Inspection) -> Path:
    """The statistics to draw: the file itself, or what lies beside the ranges made from it."""
    path = Path(found.path)
    if found.statistics is not None:
        return path
    beside = path.with_name("statistics.npz")
    if found.ranges is None or not beside.is_file():
        what = "there is no statistics.npz beside it" if found.ranges is not None else f"it is of kind {found.kind}"
        raise InputError(
            f"{path}: nothing to plot: {what}",
            "name a statistics.npz, or a ranges.json beside the one it was made from",
        )
    return beside


def _head(found: Inspection) -> list[tuple[str, str]]:
    return [
        ("file", found.path),
        ("kind", found.kind),
        ("size", format_bytes(found.size)),
        ("sha256", found.sha256),
        *(("warning", note) for note in found.notes),
    ]


@command(
    click.option(
        "--resources", is_flag=True, help="Print only what this machine has as a Ray node, for ray start --resources."
    ),
    examples=("trtpipe doctor",),
)
def doctor(session: Session, resources: bool) -> int:
    """Show what this machine can do, and how to install what is missing.

    Exit code 6 if something is missing that every build needs; what only some builds need is listed only.
    """
    import trtpipe

    if resources:
        emit(trtpipe.resources_text(session.settings))
        return 0
    found = trtpipe.diagnose(session.settings)
    code = 0 if found.ready else HostError.exit_code
    if session.json:
        return print_document("doctor", found.to_dict(), code)
    emit(metadata(_machine(found)))
    emit("")
    emit(table(("package", "version", "needed", "for", ""), _packages(found)))
    emit("")
    emit(table(("stage", "", "where"), [(s.stage, "" if s.ready else "missing", s.where) for s in found.stages]))
    emit("")
    if found.targets:
        emit(table(("target", "GPUs", "precisions", "back-ends here"), _targets(found)))
        emit("")
    for what, install in found.missing:
        emit(f"{what}\n    {install}")
    for warning in found.advisories:
        emit(f"warning: {warning}")
    if found.cache.problem:
        emit(f"cache: {found.cache.problem}\n    choose another folder with --cache-dir")
    emit(line(_readiness(found)))
    return code


def _readiness(found: Diagnosis) -> str:
    """What can be built here, and what not."""
    if not found.ready:
        return "FAILED | see above for what is missing"
    here = [state.name for state in found.backends if state.version is not None]
    absent = [state.name for state in found.backends if state.version is None]
    if not here:
        return "PASSED | everything but engines can be made: no TensorRT is installed"
    if absent:
        return f"PASSED | builds with {', '.join(here)} can run; not those with {', '.join(absent)}: not installed"
    return "PASSED | every build can run"


def _machine(found: Diagnosis) -> list[tuple[str, str]]:
    machine = found.machine
    gpus = [
        f"{gpu.name}, {gpu.target}, driver {gpu.driver}" + (f", {format_bytes(gpu.memory)}" if gpu.memory else "")
        for gpu in found.gpus
    ]
    driver = "installed" if found.driver else "not installed: engines can be built, not run"
    return [
        ("trtpipe", f"{found.trtpipe} on Python {machine['python']}, {machine['os']}"),
        ("CPU", f"{machine['cpu']}, {machine['cores']} cores, {format_bytes(found.memory)} memory"),
        ("GPU", "\n".join(gpus) or "none"),
        ("CUDA driver", driver),
        *((state.name, state.version or "not installed") for state in found.backends),
        ("sandbox", _sandbox(found)),
        ("cache", f"{found.cache.path}, {format_bytes(found.cache.free)} free"),
    ]


def _sandbox(found: Diagnosis) -> str:
    """What child processes that read untrusted files have no access to."""
    landlock = f"Landlock {found.landlock}" if found.landlock else "no Landlock in this kernel"
    if not found.sandbox:
        return f"none: limits on time and memory only ({landlock})"
    words = {"files": "other files", "network": "the network", "system calls": "other system calls"}
    words |= {"environment": "the environment", "privileges": "privileges"}
    denied = ", ".join(words.get(name, name) for name in found.sandbox)
    missing = [] if "files" in found.sandbox else ["files, which this kernel cannot confine"]
    missing += [] if "network" in found.sandbox else ["network and system calls, which this kernel cannot filter"]
    open_ = f"; but to {' and '.join(missing)}" if missing else ""
    return f"child processes have no access to {denied}{open_} ({landlock})"


def _targets(found: Diagnosis) -> list[tuple[str, str, str, str]]:
    """One row a target; a few of its products stand for all."""
    return [
        (
            target.name,
            f"{target.family}: {', '.join(target.names[:_PRODUCTS])}",
            ", ".join(form.name for form in FORMATS if form.storage in target.dtypes) + (", DLA" * target.dla),
            ", ".join(target.backends) or "none",
        )
        for target in found.targets
    ]


def _packages(found: Diagnosis) -> list[tuple[str, str, str, str, str]]:
    return [
        (package.name, package.installed or "", f">={package.needed}", package.extra or "every build", package.problem)
        for package in found.packages
        if package.extra != "dev"
    ]
