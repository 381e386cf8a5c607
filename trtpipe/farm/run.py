"""The public functions of the build farm: run a matrix, and say beforehand what that would do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from trtpipe.api.arguments import check_arguments
from trtpipe.config.paths import path_of
from trtpipe.config.requirements import install
from trtpipe.config.settings import Settings
from trtpipe.errors import HostError, InputError, TrtpipeError
from trtpipe.farm.choice import choose, shipped
from trtpipe.farm.graph import Graph, graph_of
from trtpipe.farm.local import LocalWorkers
from trtpipe.farm.matrix_file import load_matrix
from trtpipe.farm.outcome import CELLS, Outcome, cell_result, matrix_report, published
from trtpipe.farm.perform import foreseen, found
from trtpipe.farm.report import PAGE, MatrixReport, junit
from trtpipe.farm.scheduler import Schedule
from trtpipe.farm.tasks import own_offer
from trtpipe.pipeline.pipeline import opened_store
from trtpipe.pipeline.publish import check_names, check_writable, write_files
from trtpipe.progress import NullProgress, Progress
from trtpipe.remote import check_url
from trtpipe.store.files import try_locked
from trtpipe.store.layout import seal_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtpipe.config.paths import PathLike
    from trtpipe.farm.choice import Chosen
    from trtpipe.farm.tasks import Offer
    from trtpipe.farm.workers import Workers
    from trtpipe.pipeline.executor import State
    from trtpipe.store import ArtifactStore

#: Values of ``ray`` with which all workers are on this machine.
_HERE = (None, "local")
REPORT, JUNIT = "matrix.json", "junit.xml"


@dataclass(frozen=True)
class Planned:
    """A cell before the work.

    Attributes:
        where: the workers that can do it; empty with a ``problem``.
        tasks: how many it needs, and how many other cells share one of them.
        stages: how many its builds have.
        there: how many of them are in the store already; ``None`` where only its workers can tell.
    """

    name: str
    where: tuple[str, ...]
    tasks: int
    shared: int
    problem: str = ""
    stages: int | None = None
    there: int | None = None


def plan_matrix(
    file: PathLike, *, ray: str | None = None, settings: Settings | None = None, progress: Progress | None = None
) -> tuple[Planned, ...]:
    """What ``build_matrix`` would do: what is there, where each cell can run, and what cells share.

    Args:
        file, ray, settings, progress: as ``build_matrix`` takes them.

    Raises:
        InputError, RecipeError, HostError: likewise.

    Example:
        >>> [cell.name for cell in trtpipe.plan_matrix("matrix.toml")]
        ['model-fp16-null', 'model-int8-null']
    """
    path, here = path_of(file, "file"), settings or Settings.from_environment()
    matrix = load_matrix(path)
    with _workers(ray, here) as workers:
        offers = workers.offers()
    chosen = choose(matrix, path, offers, alone=ray in _HERE)
    with opened_store(here, _store_of(here, chosen), progress or NullProgress()) as store:
        graph = graph_of(chosen.builds, offers, here, shards=matrix.shards) if chosen.builds else Graph((), ())
        foresight = _Foresight(chosen, graph, offers, here, store, alone=ray in _HERE)
        return tuple(map(foresight.of, range(len(chosen.cells))))


@dataclass(frozen=True)
class _Foresight:
    """What is known of cells before the work; ``alone``: all workers are on this machine."""

    chosen: Chosen
    graph: Graph
    offers: Sequence[Offer]
    settings: Settings
    store: ArtifactStore
    alone: bool

    @cached_property
    def _own(self) -> Offer:
        return own_offer(self.settings)

    def of(self, number: int) -> Planned:
        name, builds = self.chosen.cells[number].name, self.chosen.of(number)
        if number in self.chosen.problems:
            return Planned(name, (), 0, 0, self.chosen.problems[number].message)
        tasks = self.graph.of(builds)
        states: list[State] | None = []
        try:
            states = self._states(builds)
        except InputError as error:
            if self.alone:
                return Planned(name, (), len(tasks), 0, error.message)
            states = None  # workers may have what is missing here
        except TrtpipeError:
            states = None
        return Planned(
            name=name,
            where=tuple(offer.name for offer in self.offers if all(offer.serves(task.needs) for task in tasks)),
            tasks=len(tasks),
            shared=sum(task.cells > 1 for task in tasks),
            stages=None if states is None else sum(state != "skipped" for state in states),
            there=None if states is None else states.count("hit"),
        )

    def _states(self, builds: Sequence[int]) -> list[State] | None:
        """Of all stages of a cell; ``None`` where its workers have another back-end than this machine."""
        found: list[State] = []
        for build in builds:
            task = self.graph.tasks[self.graph.last[build]]
            if not self._own.serves(task.needs.model_copy(update={"gpu": ""})):
                return None
            found += foreseen(task.request, self.settings, self.store)
        return found


def build_matrix(
    file: PathLike,
    out: PathLike,
    *,
    ray: str | None = None,
    bundles: bool = True,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> MatrixReport:
    """Build every cell of a matrix, and write ``matrix.json``, ``junit.xml`` and the bundles to ``out``.

    Cells that share a calibration, or anything else, make it once. What fails ends the cells that need it, and no
    others. What was done is in the store, so a matrix that was interrupted goes on where it stopped.

    Args:
        file: the matrix file (TOML).
        out: a folder.
        ray: the address of a Ray cluster, ``auto`` or ``local``; by default processes of this machine work.
        bundles: whether the bundle of each cell goes to ``out/cells/NAME``.
        settings: cache folder, store and number of workers (default: from the environment).
        progress: listens.

    Returns:
        What became of each cell. A failed cell is no error: see its ``exit_code``.

    Raises:
        RecipeError: the matrix file is wrong, or a file that it names.
        InputError: another run writes to ``out``.
        HostError: the store or the Ray cluster cannot be used.

    Example:
        >>> trtpipe.build_matrix("matrix.toml", "cells").exit_code
        0
    """
    check_arguments({"settings": settings, "progress": progress})
    path, folder = path_of(file, "file"), path_of(out, "out")
    here, listener, begin = settings or Settings.from_environment(), progress or NullProgress(), time.monotonic()
    check_writable(folder)
    matrix = load_matrix(path)
    if here.store:
        check_url(here.store)  # before workers are asked for
    with _alone(folder), _workers(ray, here) as workers, ExitStack() as stack:
        offers = workers.offers()
        chosen = choose(matrix, path, offers, alone=ray in _HERE)
        where = _store_of(here, chosen)
        if ray not in _HERE and not where and len(offers) > 1:
            raise InputError(
                f"the Ray cluster {ray} has {len(offers)} nodes, and no shared store is given",
                "add --store s3://BUCKET/PREFIX, through which nodes give each other what they make",
            )
        store = stack.enter_context(opened_store(here, where, listener))
        if ray not in _HERE and where:
            chosen = shipped(chosen, where, matrix.ship_limit)
        for number, problem in chosen.problems.items():
            listener.warn(f"{chosen.cells[number].name}: {problem.message} ({problem.remedy})")
        graph = Graph((), ())
        if chosen.builds:
            graph = graph_of(
                chosen.builds,
                offers,
                here,
                seal=seal_name(here.key),
                store=where,
                cache_dir=str(here.cache_dir.absolute()) if ray in _HERE or not where else "",
                shards=matrix.shards,
            )
        schedule = Schedule(graph.tasks, workers, listener)
        if ray in _HERE:  # elsewhere several machines fetch at once
            schedule.known = lambda task: found(task.request, here, store)
        outcome = Outcome(chosen, graph, schedule.run())
        cells = tuple(cell_result(number, outcome, matrix.memory_budget) for number in range(len(chosen.cells)))
        if bundles:
            cells = tuple(published(number, cell, outcome, store, folder) for number, cell in enumerate(cells))
    report = matrix_report(cells, offers, schedule, time.monotonic() - begin)
    write_report_files(report, folder)
    return report


def write_report_files(report: MatrixReport, folder: Path) -> None:
    """``matrix.json`` and ``junit.xml``."""
    texts = {folder / REPORT: report.to_file() + "\n", folder / JUNIT: junit(report)}
    write_files(texts, named=())


def _store_of(settings: Settings, chosen: Chosen) -> str:
    """The address of the shared store, in its plain form: the environment's, or that of the models' profiles.

    Raises:
        InputError: it is none, or profiles name several.
    """
    named = {settings.store} if settings.store else {build.profile.store.url for build in chosen.builds} - {""}
    urls = sorted(map(check_url, filter(None, named)))
    if len(urls) > 1:
        raise InputError(f"profiles of the matrix name several stores: {', '.join(urls)}", "choose one with --store")
    return next(iter(urls), "")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second driver out of the same output folder; builds of two drivers are told apart by the store.

    Raises:
        InputError: one writes there, or a file of the user's is in the way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with try_locked(folder / ".matrix.lock") as held:
        if not held:
            raise InputError(f"{folder}: another trtpipe matrix writes there", "wait for it, or choose another folder")
        check_names(folder, (REPORT, JUNIT, PAGE))
        check_writable(folder / CELLS)
        yield


@contextmanager
def _workers(address: str | None, settings: Settings) -> Iterator[Workers]:
    workers: Workers
    if address is None:
        workers = LocalWorkers(settings)
    else:
        try:
            from trtpipe.farm.ray_cluster import RayWorkers
        except ModuleNotFoundError as error:
            raise HostError(
                "--ray needs the package 'ray', which is not installed",
                f"{install('farm')}; or leave --ray out to work on this machine",
            ) from error
        workers = RayWorkers(address, settings)
    try:
        yield workers
    finally:
        workers.close()
