"""From the replies of workers to what became of each cell, and to its bundle in the output folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import trtpipe
from trtpipe.api.package_joins import join_packages
from trtpipe.api.packages import make_package
from trtpipe.api.results import publish_rejected, rejected_beside
from trtpipe.config.triton import TritonSettings
from trtpipe.errors import BuildError, HostError, TrtpipeError
from trtpipe.farm.report import CellPart, CellResult, MatrixReport, worst
from trtpipe.pipeline.publish import publish_folder
from trtpipe.stages.observe_shards import ObserveShard

if TYPE_CHECKING:
    from trtpipe.artifact import Artifact
    from trtpipe.farm.choice import Chosen
    from trtpipe.farm.graph import Graph
    from trtpipe.farm.scheduler import Schedule
    from trtpipe.farm.tasks import Offer, Task, TaskReply
    from trtpipe.store import ArtifactStore

CELLS = "cells"
#: What names of a Triton repository may not have.
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Outcome:
    """A matrix after the work."""

    chosen: Chosen
    graph: Graph
    replies: Mapping[int, TaskReply]

    def replies_of(self, number: int) -> tuple[TaskReply, ...]:
        """The last reply of each build of a cell."""
        return tuple(self.replies[self.graph.last[build]] for build in self.chosen.of(number))


def cell_result(number: int, outcome: Outcome, budget: int | None) -> CellResult:
    """What became of a cell; ``budget`` is the memory of its GPU."""
    chosen, cell = outcome.chosen, outcome.chosen.cells[number]
    mine, problem = chosen.of(number), chosen.problems.get(number)
    if problem is None:
        parts = tuple(
            CellPart(source=Path(chosen.builds[build].source).name, figures=reply.figures, error=reply.error)
            for build, reply in zip(mine, outcome.replies_of(number), strict=True)
        )
    else:
        parts = tuple(CellPart(source=Path(each).name, error=problem) for each in cell.model.parts)
    codes = [_code(part) for part in parts]
    figures = [part.figures for part in parts if part.figures is not None]
    size = _sum([each.size for each in figures], len(parts))
    weights = _sum([each.weight_bytes for each in figures], len(parts))
    activations = _sum([each.activation_bytes for each in figures], len(parts))
    over = _over(weights, activations, size, budget)
    tasks = [outcome.replies[task.number] for task in outcome.graph.of(mine)]
    steps = [step for reply in tasks for step in reply.steps]
    build = chosen.builds[mine[0]] if mine else None
    return CellResult(
        name=cell.name,
        model=cell.model.called,
        recipe=cell.recipe_name,
        precision=str(build.profile.precision if build is not None else cell.precision or ""),
        target=build.target if build is not None else cell.target,
        backend=cell.backend or ("" if build is None else build.backend),
        required=cell.required,
        state=_state(parts, over),
        exit_code=worst([*codes, BuildError.exit_code if over else 0]),
        headline=over or _headline(parts),
        parts=parts,
        problem=over,
        built=sum(step.state == "built" for step in steps),
        hits=sum(step.state == "hit" for step in steps),
        seconds=sum(reply.seconds for reply in tasks),
        size=size,
        kernels=_sum([each.kernels for each in figures], len(parts)),
        weight_bytes=weights,
        activation_bytes=activations,
    )


def _code(part: CellPart) -> int:
    if part.error is not None:
        return part.error.exit_code
    return 1 if part.figures is None else part.figures.exit_code


def _state(parts: Sequence[CellPart], problem: str) -> Literal["passed", "failed", "not judged", "error"]:
    if any(part.figures is None for part in parts):
        return "error"
    outcomes = {part.figures.outcome for part in parts if part.figures is not None}
    if problem or "failed" in outcomes:
        return "failed"
    return "not judged" if "not judged" in outcomes else "passed"


def _headline(parts: Sequence[CellPart]) -> str:
    lines = [part.error.message for part in parts if part.error is not None]
    lines += [part.figures.headline for part in parts if part.figures is not None]
    return "; ".join(dict.fromkeys(lines))


def _sum(values: Sequence[int | None], count: int) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == count else None


def _over(weights: int | None, activations: int | None, size: int | None, budget: int | None) -> str:
    """What is wrong with the memory that a cell's models need together; empty if nothing is.

    Where the builder does not report weights, the plans' size stands for them.
    """
    needed = (weights if weights is not None else size or 0) + (activations or 0)
    if budget is None or needed <= budget:
        return ""
    return f"its models need {needed:,} bytes of the GPU together, the budget is {budget:,}"


def published(number: int, cell: CellResult, outcome: Outcome, store: ArtifactStore, folder: Path) -> CellResult:
    """The cell with its bundles in the output folder, those that failed a gate apart."""
    parts: list[CellPart] = []
    unkept: list[str] = []
    for name, part, reply in zip(_names(cell), cell.parts, outcome.replies_of(number), strict=False):
        if reply.figures is None:
            parts.append(part)
            continue
        place = folder / CELLS / cell.name
        place = rejected_beside(place) if cell.problem else place
        if len(cell.parts) > 1:
            place /= name
        place = rejected_beside(place) if reply.figures.exit_code else place
        try:
            artifacts = _artifacts(reply, store)
            if cell.problem or reply.figures.exit_code:
                written = publish_rejected(artifacts, place, unkept.append)
            else:
                publish_folder(artifacts, place)
                written = place
        except TrtpipeError as error:  # of this cell: the others have theirs
            problem = {"state": "error", "exit_code": error.exit_code, "problem": error.message}
            return cell.model_copy(update={**problem, "headline": error.message})
        where = "" if written is None else str(written.relative_to(folder))
        parts.append(part.model_copy(update={"folder": where}))
    headline = "; ".join((cell.headline, *unkept))
    found = cell.model_copy(update={"parts": tuple(parts) or cell.parts, "headline": headline})
    several = len(cell.parts) > 1 and not cell.exit_code
    return _delivered(found, folder) if several else found


def _delivered(cell: CellResult, folder: Path) -> CellResult:
    """Models that share a GPU also as one package, and as one Triton repository."""
    place = folder / CELLS / cell.name
    # Triton's TensorRT back-end loads plans of TensorRT alone; of others the server runs the lowered graph
    plans = cell.backend.partition(" ")[0] == "tensorrt"
    builds = {Path(part.folder).name: folder / part.folder for part in cell.parts}
    try:
        with TemporaryDirectory(prefix="trtpipe-") as work:
            packages = [make_package(build, Path(work) / name).out for name, build in builds.items()]
            join_packages(packages, place / "package", name=cell.model)
        for name, build in builds.items():
            settings = TritonSettings(name=name, backend="tensorrt" if plans else "onnxruntime")
            make_package(build, place / "repository", triton=settings)
    except TrtpipeError as error:
        return cell.model_copy(
            update={
                "state": "failed",
                "exit_code": error.exit_code,
                "problem": error.message,
                "headline": f"the models are built, and cannot be delivered together: {error.message}",
            }
        )
    return cell


def _names(cell: CellResult) -> list[str]:
    """Of the models of a cell: those of their files, with a number where two are called alike, or as what lies beside
    them."""
    names = [_UNSAFE.sub("_", Path(part.source).stem) for part in cell.parts]
    alike = len({"package", "repository", *names}) < len(names) + 2
    return [f"{position}-{name}" for position, name in enumerate(names)] if alike else names


def _artifacts(reply: TaskReply, store: ArtifactStore) -> list[Artifact]:
    found = []
    for label, key in reply.artifacts.items():
        artifact = store.lookup(key)
        if artifact is None:
            raise HostError(
                f"{label}: a worker made it, and the store of this machine does not have it",
                "give the driver and its workers one store: --store",
            )
        found.append(artifact)
    return found


def matrix_report(
    cells: Sequence[CellResult], offers: Sequence[Offer], schedule: Schedule, seconds: float
) -> MatrixReport:
    """All cells in one record."""
    own = [_own_steps(task, schedule.replies[task.number]) for task in schedule.tasks]
    return MatrixReport(
        trtpipe=trtpipe.__version__,
        workers=tuple(offers),
        cells=tuple(cells),
        tasks=len(schedule.tasks),
        built=sum(built for built, _ in own),
        hits=sum(hits for _, hits in own),
        repeated=schedule.repeated,
        seconds=seconds,
        exit_code=worst(cell.exit_code for cell in cells if cell.required),
    )


def _own_steps(task: Task, reply: TaskReply) -> tuple[int, int]:
    """How many stages of its own a task built and found; what it found of earlier tasks is theirs."""
    shard = (ObserveShard.name,) if task.request.shard is not None else ()
    states = [step.state for step in reply.steps if step.label.partition(" ")[0] in (*task.own, *shard)]
    return states.count("built"), states.count("hit")
