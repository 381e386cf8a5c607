"""What a measurement found: ``latency.json``."""

from __future__ import annotations

from trtpipe.artifact import Record


class Latency(Record):
    """Wall time of one inference, synchronised, inputs and outputs in host memory.

    All times are in milliseconds; metric names are trtexec's.

    Attributes:
        artifact: label of what ran.
        runner: where it ran, in words.
        on_gpu: whether this is a GPU latency at all.
        shapes: the input shapes.
        iterations: runs that count, after the warm-up.
        cov: coefficient of variation in percent; above 2.5 the figures are not stable.
        throughput_qps: inferences a second.
    """

    artifact: str
    runner: str
    on_gpu: bool
    shapes: dict[str, tuple[int, ...]]
    warmup_seconds: float
    iterations: int
    min: float
    max: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    cov: float
    throughput_qps: float


class LatencyReport(Record):
    """``latency.json``: the figures, the machine, and the verdict where there is a budget.

    Attributes:
        machine: CPU, cores, memory and OS, and the GPU where one was used.
        max_p99: the budget in milliseconds; it is judged on GPU figures only.
        passed: the verdict; true without a budget.
        notes: what the figures do not show.
    """

    machine: dict[str, str | int]
    measurements: tuple[Latency, ...]
    max_p99: float | None = None
    passed: bool
    notes: tuple[str, ...] = ()
