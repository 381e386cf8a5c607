"""The public function that compares two engines, or two graphs, by running them in turns."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from trtpipe.api.arguments import CommonArguments, takes
from trtpipe.api.engines import runnable_engine, undamaged
from trtpipe.api.inspection import inspect
from trtpipe.api.request import requested
from trtpipe.api.results import JSON, PLAN, reported, write_record
from trtpipe.backends.base import load_backend
from trtpipe.config.paths import folder_of, path_of, path_or_none
from trtpipe.config.toolchain import machine
from trtpipe.engine.record import EngineFigures
from trtpipe.errors import HostError, InputError
from trtpipe.latency.reports import LatencyComparison, PairedComparison
from trtpipe.pipeline.pipeline import opened
from trtpipe.pipeline.publish import check_writable
from trtpipe.pipeline.run_state import RunState
from trtpipe.reference.runnable import runnable_graph

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Unpack

    from trtpipe.artifact import Artifact
    from trtpipe.backends.base import OpenRunner
    from trtpipe.config.job import Job
    from trtpipe.config.paths import PathLike
    from trtpipe.progress import Progress

COMPARISON = "comparison.json"
_CPU_NOTE = "measured on the CPU with onnxruntime: these are no GPU latencies"


@takes(CommonArguments)
def compare_latency(
    old: PathLike,
    new: PathLike,
    out: PathLike | None = None,
    *,
    graph: PathLike | None = None,
    **common: Unpack[CommonArguments],
) -> LatencyComparison:
    """Run two plans on this machine's GPU, or two ONNX graphs on its CPU, in turns.

    Where the plans cannot run here, nothing is timed: what their builders say of them is all there is to compare.

    Args:
        old, new: two plans of one TensorRT flavor, or two graphs, with the same inputs.
        out: where ``comparison.json`` goes; a file or a folder.
        graph: the lowered graph of the plans (default: ``lowered.onnx`` beside ``old``, if there is one).
        profile: its ``[latency]`` table and shapes say how and on what to measure.

    Raises:
        InputError: they are not two of a kind, or their inputs differ.

    Example:
        >>> (pair,) = trtpipe.compare_latency("simplified.onnx", "lowered.onnx").pairs
        >>> pair.low <= pair.ratio <= pair.high  # latency of the second over the first, with its confidence interval
        True
    """
    one, other, where = path_of(old, "old"), path_of(new, "new"), path_or_none(out, "out")
    if where is not None:
        check_writable(folder_of(where, JSON))
    engines = [path.suffix in PLAN for path in (one, other)]
    if engines[0] != engines[1]:
        raise InputError(f"{one} and {other}: an engine and a graph", "compare two engines, or two graphs")
    with (
        reported("compare", common.get("progress")) as listener,
        requested(engines=engines[0], built=one if engines[0] else None, **common) as job,
    ):
        if engines[0]:
            found = _engines(job, one, other, path_or_none(graph, "graph"), listener)
        else:
            found = _graphs(job, one, other, listener)
    if where is not None:
        write_record(found, where, COMPARISON)
    return found


def _graphs(job: Job, old: Path, new: Path, progress: Progress) -> LatencyComparison:
    with (
        opened(job, progress) as pipeline,
        pipeline.given({"lowered": old, "lowered:new": new}) as artifacts,
        TemporaryDirectory() as scratch,
    ):
        pair = [_runnable(path, Path(scratch, name)) for name, path in (("old", old), ("new", new))]
        runner, pairs = _timed(job, "onnxruntime", pair, artifacts, progress)
    return LatencyComparison(
        machine=machine(), old=str(old), new=str(new), runner=runner, on_gpu=False, pairs=pairs, notes=(_CPU_NOTE,)
    )


def _runnable(graph: Path, workdir: Path) -> Path:
    """What the CPU can run for a graph: bfloat16 has no kernels there, so it is emulated."""
    lowered = inspect(graph).lowered
    if lowered is None or lowered.precision.half is None or lowered.precision.half.cpu_kernels:
        return graph
    workdir.mkdir()
    return runnable_graph(graph, lowered.precision.half, workdir)[0]


def _engines(job: Job, old: Path, new: Path, graph: Path | None, progress: Progress) -> LatencyComparison:
    plans = {"old": undamaged(old), "new": undamaged(new)}
    one, other = (found.flavor for found in plans.values())
    if one != other:
        raise InputError(
            f"{old} is of {one}, {new} of {other}: one process runs engines of one flavor",
            "measure them one by one",
        )
    lowered = graph or old.with_name("lowered.onnx")
    runner = ""
    pairs: tuple[PairedComparison, ...] = ()
    notes: tuple[str, ...] = ()
    try:
        for path in (old, new):
            runnable_engine(job, path)
    except HostError as error:
        notes = (f"nothing was timed: {error.message}",)
    else:
        given = {"engine:old": old, "engine:new": new, **({"lowered": lowered} if lowered.is_file() else {})}
        with opened(job, progress) as pipeline, pipeline.given(given) as artifacts:
            pair = [artifacts["engine:old"].path, artifacts["engine:new"].path]
            runner, pairs = _timed(job, job.backend, pair, artifacts, progress)
    return LatencyComparison(
        machine=machine(), old=str(old), new=str(new), runner=runner, on_gpu=bool(pairs), pairs=pairs,
        engines={
            name: EngineFigures.of(found.engine, found.size)
            for name, found in plans.items()
            if found.engine is not None
        },
        notes=notes,
    )  # fmt: skip


def _timed(
    job: Job, backend: str, pair: list[Path], table: dict[str, Artifact], progress: Progress
) -> tuple[str, tuple[PairedComparison, ...]]:
    """Where both ran, and the comparison on every shape."""
    with ExitStack() as stack:
        runners = [stack.enter_context(load_backend(backend).open(path, job.settings)) for path in pair]
        return runners[0].device, tuple(_paired(job, runners, table, progress))


def _paired(
    job: Job, runners: list[OpenRunner], table: dict[str, Artifact], progress: Progress
) -> Iterator[PairedComparison]:
    from trtpipe.latency.alternating import alternate, evaluate
    from trtpipe.latency.feeds import InputSource, points

    tables = RunState(dict(table), complete_shapes=False)
    contract = tables.contract()
    old, new = runners
    if [(spec.name, spec.dtype) for spec in old.inputs] != [(spec.name, spec.dtype) for spec in new.inputs]:
        raise InputError(
            f"their inputs differ: {', '.join(map(str, old.inputs))}; and {', '.join(map(str, new.inputs))}",
            "compare two of the same model",
        )
    source = InputSource.of(tables.dataset("evaluation-data", job) or tables.dataset("calibration-data", job))
    specs = old.inputs if contract is None else contract.inputs
    typical = [{name: shape.opt for name, shape in shapes.items()} for shapes in job.profile.shapes]
    if not typical and old.gpu is not None:
        typical = list(old.gpu.opt_shapes)
    for shapes in points(specs, typical, source.sample, job.profile.latency.batches):
        feed, words = source.feed(specs, shapes)
        yield evaluate(alternate(old, new, feed, job.profile.latency, progress), shapes, words)
