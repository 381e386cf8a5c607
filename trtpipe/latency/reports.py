"""The records of a measurement: ``latency.json`` and ``comparison.json``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from trtpipe.artifact import PublicRecord, Record
from trtpipe.backends.timing import DeviceState
from trtpipe.engine.record import EngineFigures

#: Times, rates and ratios of times.
Figure = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def shapes_as_text(shapes: dict[str, tuple[int, ...]]) -> str:
    """``x:1x3x224x224,y:1x128``, as on the command line."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


class Times(Record):
    """A series of times, in milliseconds.

    Attributes:
        p90, p95, p99: percentiles as trtexec takes them: times that were measured, not interpolated.
        cov: coefficient of variation (standard deviation over mean) in percent.
    """

    min: Figure
    max: Figure
    mean: Figure
    median: Figure
    p90: Figure
    p95: Figure
    p99: Figure
    cov: Figure


class Latency(Times):
    """Repeated inferences of one feed. The metrics and their names are those of trtexec.

    On a GPU the times of this record itself are trtexec's "Latency": the transfers and the kernels of one query, by
    CUDA events. On the CPU they are the wall time of one run.

    Attributes:
        artifact: label of what ran.
        runner: where it ran, as ``Runner.device``.
        on_gpu: whether this is a GPU latency.
        shapes: the input shapes.
        data: description of the input values.
        iterations: runs after the warm-up.
        throughput_qps: inferences per second of wall time.
        wall_seconds: from enqueueing the first query after the warm-up until the last one is complete.
        parts: on a GPU ``gpu_compute`` (the kernels), ``enqueue`` (host time to launch them), ``h2d`` and
            ``d2h`` (the transfers, if they count), and ``end_to_end``: the wall time of a whole inference
            through Polygraphy's TrtRunner, from arrays in host memory to arrays in host memory.
        windows: medians of up to ten windows of successive runs.
        spread: largest minus smallest median of the windows, in percent of their median.
        stable: windows within 10 %, and on a GPU a coefficient of variation of the kernel times up to 2.5 %.
        cuda_graph: whether the kernels were launched as one CUDA graph.
        before, after: state of the GPU after the warm-up and at the end; ``None`` if it cannot be read.
        notes: what limits these figures.
    """

    artifact: str
    runner: str
    on_gpu: bool
    shapes: dict[str, tuple[int, ...]]
    data: str = ""
    warmup_seconds: Figure
    iterations: int
    throughput_qps: Figure
    wall_seconds: Figure = 0.0
    parts: dict[str, Times] = {}
    windows: tuple[Figure, ...] = ()
    spread: Figure = 0.0
    stable: bool = True
    cuda_graph: bool = False
    before: DeviceState | None = None
    after: DeviceState | None = None
    notes: tuple[str, ...] = ()

    @property
    def on(self) -> str:
        """The input shapes as text: ``x:1x3x224x224``."""
        return shapes_as_text(self.shapes)


class LatencyReport(PublicRecord):
    """``latency.json``: the figures, and the machine. Whether a limit is met, the verdict says.

    Attributes:
        machine: CPU, cores, memory and OS.
        measurements: one for every artifact and shape.
        engines: kernels and bytes of each engine, to compare builds without a GPU: reported by the builder (not
            measured).
        notes: what the figures do not show.
    """

    SCHEMA: ClassVar[int] = 3

    machine: dict[str, str | int]
    measurements: tuple[Latency, ...]
    engines: dict[str, EngineFigures] = {}
    notes: tuple[str, ...] = ()


class PairedComparison(Record):
    """Two artifacts timed in turns, on inputs of one shape.

    Attributes:
        shapes: of the inputs.
        data: description of their values.
        rounds: how often both were timed.
        old, new: median over the rounds of the time of a run, in milliseconds.
        ratio: median over the rounds of new / old.
        low, high: its confidence interval.
        confidence: level of that interval.
        faster: ``old`` or ``new``; empty if the interval contains 1.
    """

    shapes: dict[str, tuple[int, ...]]
    data: str
    rounds: int
    old: Figure
    new: Figure
    ratio: Figure
    low: Figure
    high: Figure
    confidence: Figure
    faster: str

    @property
    def on(self) -> str:
        """The input shapes as text."""
        return shapes_as_text(self.shapes)


class LatencyComparison(PublicRecord):
    """``comparison.json``: two engines, or two graphs, on one machine.

    Attributes:
        old, new: the files.
        runner: where both ran; empty if neither could be timed.
        on_gpu: whether these are GPU latencies.
        pairs: one for every shape; none if neither could be timed.
        engines: figures of ``old`` and ``new`` if both are engines, reported by the builder (not measured).
        notes: what the figures do not show.
    """

    machine: dict[str, str | int]
    old: str
    new: str
    runner: str
    on_gpu: bool
    pairs: tuple[PairedComparison, ...]
    engines: dict[str, EngineFigures] = {}
    notes: tuple[str, ...] = ()
