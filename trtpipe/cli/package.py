"""``trtpipe package``: from a build to the machine that runs it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli import options
from trtpipe.cli.options import PATH, command, common_options
from trtpipe.cli.results import ACCURACY_FAILED, print_document, print_paths
from trtpipe.cli.tables import line, table
from trtpipe.cli.text import emit

if TYPE_CHECKING:
    from trtpipe import SelfTest
    from trtpipe.cli.session import Session


@click.group(invoke_without_command=True)
@common_options
@click.pass_context
def package(context: click.Context) -> None:
    """Package a build for the machine that runs it."""
    if context.invoked_subcommand is None:
        emit(context.get_help())


@command(
    click.argument("build", type=PATH),
    options.out_option,
    click.option("--describe", type=PATH, metavar="D.toml", help="Name, version, meanings and units of the model."),
    click.option("--samples", metavar="DATA", help="Reference inputs for the self-test: a folder, file or function."),
    click.option("--license", "licenses", type=PATH, multiple=True, metavar="FILE", help="A license of the model."),
    click.option("--model-card", type=PATH, metavar="FILE", help="A description of the model, its data and limits."),
    click.option("--allow-failed", is_flag=True, help="Package a build that failed a gate; the package records that."),
    click.option("--triton", is_flag=True, help="Write a model repository of Triton Inference Server instead."),
    click.option("--triton-settings", type=PATH, metavar="T.toml", help="Name, batches, instances; implies --triton."),
    click.option("--triton-backend", type=click.Choice(["tensorrt", "onnxruntime"]), help="What Triton serves with."),
    click.option("--handover", default="", metavar="TARGET", help="Write a folder to build in on a TARGET."),
    click.option("--handover-options", type=PATH, metavar="B.toml", help="Keys of [build] for the builder there."),
    group=package,
)
def make(
    session: Session,
    build: Path,
    describe: Path | None,
    samples: str | None,
    licenses: tuple[Path, ...],
    model_card: Path | None,
    allow_failed: bool,
    triton: bool,
    triton_settings: Path | None,
    triton_backend: str | None,
    handover: str,
    handover_options: Path | None,
) -> int:
    """Put all that a machine needs to run a build into one folder, or one .tar.

    BUILD is a folder that trtpipe build wrote; with --triton and --handover a package will do. OUT is a folder, or a
    file that ends in .tar.
    """
    import trtpipe

    served = trtpipe.TritonSettings() if triton_settings is None else trtpipe.TritonSettings.load(triton_settings)
    if triton_backend is not None:
        served = served.model_copy(update={"backend": triton_backend})

    with session.listening() as progress:
        made = trtpipe.make_package(
            build,
            session.out or Path(),
            description=describe,
            samples=samples,
            licenses=licenses,
            model_card=model_card,
            allow_failed=allow_failed,
            triton=served if triton or triton_settings is not None or triton_backend is not None else False,
            handover=handover,
            handover_options=handover_options,
            settings=session.settings,
            progress=progress,
        )
    session.out = None
    model = made.model
    if session.json:
        return print_document("package make", {"out": str(made.out), "model": model.to_dict(), "notes": made.notes})
    plans = ", ".join(plan.file for plan in model.plans) or "no plan"
    emit(line(f"packaged {model.name} | {model.precision} | {plans} | {model.verdict.headline}"))
    for note in made.notes:
        emit(line(note))
    print_paths([made.out], [] if made.notes else ["package", "selftest", str(made.out), "--device", "cpu"])
    return 0


@command(
    click.argument("package_", metavar="PACKAGE", type=PATH),
    click.option("--device", default="cuda", show_default=True, help="cuda, cuda:1, or cpu."),
    group=package,
)
def selftest(session: Session, package_: Path, device: str) -> int:
    """Run a package's reference inputs on this machine, and compare with its reference outputs.

    PACKAGE is a folder or a .tar that trtpipe package make wrote. Exit code 3 if an output is not within tolerance.
    """
    import trtpipe

    found = trtpipe.selftest_package(package_, device)
    code = 0 if found.passed else ACCURACY_FAILED
    if session.json:
        return print_document("package selftest", {"passed": found.passed, "selftest": _document(found)}, code)
    rows = [
        (each.name, f"{each.max_abs:.3g}", f"{each.cosine:.6f}", f"{each.snr_db:.1f}", ", ".join(each.broken) or "ok")
        for each in found.outputs
    ]
    emit(table(("output", "largest difference", "cosine", "SNR dB", "verdict"), rows))
    word = "PASSED" if found.passed else "FAILED"
    what = f"{found.plan or 'the lowered graph'} ({found.device})"
    emit(line(f"{word} {what} against {found.runner} on {found.feeds} {found.data} feeds"))
    return code


def _document(found: SelfTest) -> dict[str, object]:
    """As JSON values; an infinite figure is a text."""
    document = asdict(found)
    for each in document["outputs"]:
        each["snr_db"] = each["snr_db"] if abs(each["snr_db"]) != float("inf") else str(each["snr_db"])
    return document
