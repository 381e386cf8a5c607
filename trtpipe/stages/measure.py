"""measure: how long one inference takes, on the GPU where there is one -> ``latency.json``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.artifact import Draft
from trtpipe.backends.base import load_backend
from trtpipe.errors import StageError
from trtpipe.stages.running import runnable, runnable_engines, runnable_graph
from trtpipe.toolchain import machine

if TYPE_CHECKING:
    from trtpipe.backends.base import Feed
    from trtpipe.digest import JSON
    from trtpipe.job import Inputs, Job
    from trtpipe.latency.reports import Latency
    from trtpipe.progress import Progress

LATENCY = "latency.json"
_CPU_NOTE = "measured on the CPU with onnxruntime: this is not a GPU latency"
_STABLE_COV = 2.5


class Measure:
    """Times the engines this machine can run; without any, the lowered graph on the CPU, and says so."""

    name = "measure"
    produces = "latency"
    version = 1
    packages = ("onnxruntime",)

    def consumes(self, job: Job) -> tuple[str, ...]:
        """The engines, or the lowered graph."""
        return ("engine", "lowered") if runnable(job) else ("lowered",)

    def skip(self, job: Job) -> str | None:
        """Never."""
        return None

    def key(self, job: Job) -> JSON:
        """How long to measure, on which shapes, within which budget; the machine is in the fingerprint."""
        return {
            "latency": job.profile.latency.to_dict(),
            "shapes": {name: list(shape) for name, shape in job.opt_shapes.items()},
        }

    def fingerprint(self, job: Job) -> dict[str, str]:
        """This machine: the one stage whose result depends on it."""
        found = {name: str(value) for name, value in machine().items()}
        return {**found, "threads": str(job.settings.threads), **load_backend(job.backend).fingerprint(job.settings)}

    def run(self, job: Job, inputs: Inputs, workdir: Path, progress: Progress) -> tuple[Draft, tuple[Path, ...]]:
        """Measure one after the other."""
        from trtpipe.latency.measuring import measure
        from trtpipe.latency.reports import LatencyReport

        settings = job.profile.latency
        engines = runnable_engines(job, inputs)
        found: list[Latency] = []
        for engine in engines:
            with load_backend(job.backend).open(engine.path, job.settings) as runner:
                feed = _feed(job, inputs)
                found.append(measure(runner, feed, settings, engine.label, progress, on_gpu=True))
        if not engines:
            with load_backend("onnxruntime").open(_timed_graph(job, inputs, workdir), job.settings) as runner:
                found.append(measure(runner, _feed(job, inputs), settings, "lowered", progress, on_gpu=False))
        for leftover in workdir.iterdir():
            leftover.unlink()
        budget = settings.max_p99
        report = LatencyReport(
            machine=machine(),
            measurements=tuple(found),
            max_p99=None if budget is None else budget * 1e3,
            passed=all(figure.p99 <= budget * 1e3 for figure in found if figure.on_gpu) if budget else True,
            notes=tuple(_notes(found, budget)),
        )
        report.write(workdir / LATENCY)
        return Draft("latency", workdir, (LATENCY,)), ()

    def check(self, draft: Draft, inputs: Inputs) -> None:
        """Times are positive."""
        from trtpipe.latency.reports import LatencyReport

        for figure in LatencyReport.read(draft.path).measurements:
            if not 0 < figure.min <= figure.median <= figure.max:
                raise StageError(f"{figure.artifact}: impossible run times", "report this as a bug")


def _feed(job: Job, inputs: Inputs) -> Feed:
    from trtpipe.calibration.synthetic import RandomDataset
    from trtpipe.onnxfile import read_contract

    contract = read_contract(inputs.path("lowered"))
    return next(iter(RandomDataset(contract, job.opt_shapes, samples=1, seed=0))).feed


def _timed_graph(job: Job, inputs: Inputs, workdir: Path) -> Path:
    """The graph to time on the CPU: bfloat16 has no CPU kernels, so it is emulated."""
    precision = job.profile.precision
    return (
        runnable_graph(inputs.path("lowered"), precision, workdir)[0] if precision == "bf16" else inputs.path("lowered")
    )


def _notes(found: list[Latency], budget: float | None) -> list[str]:
    notes = []
    if not any(figure.on_gpu for figure in found):
        notes.append(_CPU_NOTE)
        if budget is not None:
            notes.append("the latency budget was not judged: no engine could run here")
    for figure in found:
        if figure.on_gpu and figure.cov > _STABLE_COV:
            notes.append(
                f"{figure.artifact}: unstable, coefficient of variation {figure.cov:.1f} %; lock the GPU's clocks"
            )
    return notes
