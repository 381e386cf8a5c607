"""What an engine that is open on a GPU offers to those who measure it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trtpipe.artifact import Record

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from trtpipe.artifact import Feed


class DeviceState(Record):
    """A GPU at one moment; ``None`` for what the driver does not report.

    Attributes:
        sm_mhz, memory_mhz: clocks now.
        max_sm_mhz: its highest clock.
        temperature: degrees Celsius.
        watts: power drawn.
        throttled: reasons for reduced clocks, in NVML's terms.
        processes: programs that use it for computing, this one included.
    """

    name: str
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    max_sm_mhz: int | None = None
    temperature: int | None = None
    watts: float | None = None
    throttled: tuple[str, ...] = ()
    processes: int | None = None


@dataclass(frozen=True)
class QueryTimes:
    """One query of an engine, as trtexec divides it, in seconds.

    Attributes:
        enqueue: host time to launch the kernels.
        h2d, compute, d2h: input transfers, kernels, output transfers, by CUDA events.
    """

    enqueue: float
    h2d: float
    compute: float
    d2h: float

    @property
    def latency(self) -> float:
        """Transfers and kernels."""
        return self.h2d + self.compute + self.d2h


class Timer(Protocol):
    """Times queries of one feed. Up to two may be enqueued.

    Attributes:
        cuda_graph: whether the kernels are launched as one CUDA graph.
        notes: what could not be done as asked.
    """

    cuda_graph: bool
    notes: tuple[str, ...]

    def start(self) -> None:
        """Enqueue a query, and do not wait for it."""

    def finish(self) -> QueryTimes:
        """Wait for the oldest query that is enqueued."""


class DeviceRunner(Protocol):
    """An engine on a GPU, beyond what every runner offers."""

    @property
    def opt_shapes(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        """For each optimization profile, the opt shape of every input."""

    def timer(self, feed: Feed, *, cuda_graph: bool, transfers: bool) -> AbstractContextManager[Timer]:
        """Prepare to time queries of ``feed``.

        Args:
            cuda_graph: launch the kernels as one CUDA graph, where the engine can be captured.
            transfers: copy inputs and outputs in every query.

        Raises:
            HostError: the CUDA runtime library cannot be used.
            InputError: ``feed`` fits no profile, misses an input, or is of another type.
            StageError: TensorRT or CUDA refuses.
        """

    def state(self) -> DeviceState | None:
        """The GPU now; ``None`` where its state cannot be read."""
