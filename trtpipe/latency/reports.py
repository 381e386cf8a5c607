"""What a measurement found: ``latency.json``."""

from __future__ import annotations

from trtpipe.artifact import Record
from trtpipe.backends.timing import DeviceState
from trtpipe.engine.figures import EngineFigures


def shapes_in_words(shapes: dict[str, tuple[int, ...]]) -> str:
    """``x:1x3x224x224,y:1x128``, as the command line takes them."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


class Times(Record):
    """A series of times, in milliseconds.

    Attributes:
        p90, p95, p99: percentiles as trtexec takes them: times that were really measured.
        cov: coefficient of variation (standard deviation over mean) in percent.
    """

    min: float
    max: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    cov: float


class Latency(Times):
    """One inference, again and again. The metrics, and their names, are trtexec's.

    On a GPU the times of this record itself are trtexec's "Latency": the transfers and the kernels of one query, by
    the GPU's own clock. On the CPU they are the wall time of one run.

    Attributes:
        artifact: label of what ran.
        runner: where it ran, in words.
        on_gpu: whether this is a GPU latency at all.
        shapes: the input shapes.
        data: which values the inputs had, in words.
        iterations: runs that count, after the warm-up.
        throughput_qps: inferences a second, by the wall clock.
        wall_seconds: from the first enqueued query that counts until the last one is complete.
        parts: on a GPU ``gpu_compute`` (the kernels), ``enqueue`` (what the host takes to launch them), ``h2d`` and
            ``d2h`` (the transfers, where they are part of it), and ``end_to_end``: the wall time of a whole inference
            through Polygraphy's TrtRunner, from arrays in host memory to arrays in host memory.
        windows: medians of up to ten windows of successive runs.
        spread: how far the windows' medians lie apart, in percent of the overall median.
        stable: whether the figures can be trusted: windows within 10 %, and on a GPU kernel times that vary by no more
            than 2.5 %.
        cuda_graph: whether the kernels were launched as one CUDA graph.
        before, after: the GPU's clocks after the warm-up and at the end; ``None`` where they cannot be read.
        notes: what to know before quoting these figures.
    """

    artifact: str
    runner: str
    on_gpu: bool
    shapes: dict[str, tuple[int, ...]]
    data: str = ""
    warmup_seconds: float
    iterations: int
    throughput_qps: float
    wall_seconds: float = 0.0
    parts: dict[str, Times] = {}
    windows: tuple[float, ...] = ()
    spread: float = 0.0
    stable: bool = True
    cuda_graph: bool = False
    before: DeviceState | None = None
    after: DeviceState | None = None
    notes: tuple[str, ...] = ()

    @property
    def on(self) -> str:
        """The input shapes in words: ``x:1x3x224x224``."""
        return shapes_in_words(self.shapes)


class LatencyReport(Record):
    """``latency.json``: the figures, the machine, and the verdict where there is a budget.

    Attributes:
        machine: CPU, cores, memory and OS.
        measurements: one for every artifact and shape.
        engines: what the builder says of each engine: kernels and bytes, to compare builds by where no GPU is. This is
            no latency.
        max_p99: the budget in milliseconds; it is judged on GPU figures only, on every shape.
        passed: the verdict; true without a budget.
        notes: what the figures do not show.
    """

    machine: dict[str, str | int]
    measurements: tuple[Latency, ...]
    engines: dict[str, EngineFigures] = {}
    max_p99: float | None = None
    passed: bool
    notes: tuple[str, ...] = ()


class Race(Record):
    """Two artifacts in turns, on inputs of one shape.

    Attributes:
        shapes: of the inputs.
        data: which values they had.
        rounds: how often both had their turn.
        old, new: median over the rounds of the time of a run, in milliseconds.
        ratio: median over the rounds of new / old.
        low, high: its confidence interval.
        confidence: that ``ratio`` lies between them.
        faster: which one is faster, as far as the interval tells: ``old``, ``new``, or ``""`` where 1 is inside it.
    """

    shapes: dict[str, tuple[int, ...]]
    data: str
    rounds: int
    old: float
    new: float
    ratio: float
    low: float
    high: float
    confidence: float
    faster: str

    @property
    def on(self) -> str:
        """The input shapes in words."""
        return shapes_in_words(self.shapes)


class LatencyComparison(Record):
    """``comparison.json``: two engines, or two graphs, on one machine.

    Attributes:
        old, new: the files.
        runner: where both ran; empty where nothing could be timed.
        on_gpu: whether these are GPU latencies.
        races: one for every shape; none where nothing could be timed.
        engines: ``old`` and ``new`` as their builder describes them, where both are engines. This is no latency.
        notes: what the figures do not show.
    """

    machine: dict[str, str | int]
    old: str
    new: str
    runner: str
    on_gpu: bool
    races: tuple[Race, ...]
    engines: dict[str, EngineFigures] = {}
    notes: tuple[str, ...] = ()
