"""``trtpipe matrix``: many builds, on this machine or on a Ray cluster."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from trtpipe.cli import options
from trtpipe.cli.options import command, session_option, setter
from trtpipe.cli.results import print_document
from trtpipe.cli.tables import line, table
from trtpipe.cli.text import emit
from trtpipe.config.units import format_bytes, format_seconds, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trtpipe import MatrixReport, Planned
    from trtpipe.cli.session import Session
    from trtpipe.config.settings import Settings
    from trtpipe.progress import Progress


@command(
    click.argument("file", type=options.PATH),
    session_option(
        "-o",
        "--out",
        store=setter("out"),
        type=options.PATH,
        metavar="OUT",
        help="Output folder; not needed with --dry-run.",
    ),
    click.option("--ray", metavar="ADDRESS", help="Work on this Ray cluster: auto, local, or HOST:PORT."),
    click.option("--store", metavar="URL", help="The store that workers share, such as s3://BUCKET/PREFIX."),
    session_option(
        "--jobs",
        store=setter("jobs"),
        type=click.IntRange(min=1),
        metavar="N",
        help="Number of workers on this machine (default: by cores).",
    ),
    click.option("--no-bundles", is_flag=True, help="Leave engines and graphs in the store; write the reports only."),
    click.option("--dry-run", is_flag=True, help="Show what is there, what will be built and where; run none."),
    examples=("trtpipe matrix matrix.toml -o build/matrix",),
)
def matrix(session: Session, file: Path, ray: str | None, store: str | None, no_bundles: bool, dry_run: bool) -> int:
    """Build models x recipes x precisions x targets x TensorRT versions.

    FILE is a TOML file with the axes of the matrix. Cells that share work, such as a calibration, do it once. OUT gets
    matrix.json, matrix.html, junit.xml and the bundle of each cell. A matrix that was interrupted resumes where it
    stopped. The exit code is that of the worst cell that is required.
    """
    import trtpipe

    settings = _with_store(session.settings, store)
    if dry_run:
        return _show_plan(session, trtpipe.plan_matrix(file, ray=ray, settings=settings))
    if session.out is None:
        raise click.MissingParameter(param_type="option", param_hint="-o, --out")
    with _listening(session) as progress:
        report = trtpipe.build_matrix(
            file, session.output, ray=ray, bundles=not no_bundles, settings=settings, progress=progress
        )
        trtpipe.write_matrix_page(report, session.output)
    if session.json:
        return print_document("matrix", report.to_dict(), report.exit_code)
    _show(report)
    emit(line(f"{report.headline} | {printable(str(session.output))}"))
    return report.exit_code


def _with_store(settings: Settings, store: str | None) -> Settings:
    return settings if store is None else replace(settings, store=store)


@contextmanager
def _listening(session: Session) -> Iterator[Progress]:
    """A live table on a terminal, lines elsewhere."""
    if session.verbosity >= 0 and sys.stderr.isatty():
        from trtpipe.cli.matrix_live import MatrixLive

        with MatrixLive() as live:
            yield live
    else:
        with session.listening() as progress:
            yield progress


def _show_plan(session: Session, planned: tuple[Planned, ...]) -> int:
    if session.json:
        return print_document("matrix", {"cells": [asdict(cell) for cell in planned]})
    rows = [
        (
            printable(cell.name),
            str(cell.tasks),
            str(cell.shared),
            "?" if cell.there is None else f"{cell.there} of {cell.stages}",
            printable(cell.problem or ", ".join(cell.where) or "nowhere"),
        )
        for cell in planned
    ]
    emit(table(("cell", "tasks", "shared", "there", "where"), rows, right=("tasks", "shared", "there")))
    cannot = sum(bool(cell.problem) for cell in planned)
    there = sum(cell.there is not None and cell.there == cell.stages for cell in planned)
    emit(f"{len(planned)} cells: {there} are there, {cannot} cannot be built, the others will be")
    return 0


def _show(report: MatrixReport) -> None:
    rows = [
        (
            cell.word,
            printable(cell.name),
            "" if cell.size is None else format_bytes(cell.size),
            str(cell.built),
            format_seconds(cell.seconds),
            printable(cell.headline)[:100],
        )
        for cell in report.cells
    ]
    emit(table(("verdict", "cell", "size", "built", "time", "details"), rows, right=("size", "built", "time")))
