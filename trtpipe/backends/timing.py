"""What a runner on a GPU offers to those who time it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from trtpipe.artifact import Record
from trtpipe.backends.base import OpenRunner

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from trtpipe.artifact import Feed


class DeviceState(Record):
    """A GPU at one moment; a figure that the driver does not tell is ``None``.

    Attributes:
        sm_mhz, memory_mhz: clocks now.
        max_sm_mhz: the highest clock it has.
        temperature: degrees Celsius.
        watts: power drawn.
        throttled: what holds the clocks down, in NVML's words.
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
class Lap:
    """One query of an engine, as trtexec divides it, in seconds.

    Attributes:
        enqueue: what the host took to launch the kernels.
        h2d, compute, d2h: transfers in, kernels, transfers out, by the GPU's clock.
    """

    enqueue: float
    h2d: float
    compute: float
    d2h: float

    @property
    def latency(self) -> float:
        """Transfers and kernels."""
        return self.h2d + self.compute + self.d2h


class Stopwatch(Protocol):
    """Queries of one feed, timed on the device. Up to two may be under way.

    Attributes:
        cuda_graph: whether the kernels are launched as one CUDA graph.
        notes: what could not be done as asked.
    """

    cuda_graph: bool
    notes: tuple[str, ...]

    def start(self) -> None:
        """Enqueue a query; waits for nothing."""

    def finish(self) -> Lap:
        """Wait for the oldest query under way."""


@runtime_checkable
class DeviceRunner(OpenRunner, Protocol):
    """An engine on a GPU: a runner that can also be timed there."""

    @property
    def typical(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        """For each optimization profile, the shape of every input that it was optimized for."""

    def stopwatch(self, feed: Feed, *, cuda_graph: bool, transfers: bool) -> AbstractContextManager[Stopwatch]:
        """Make ready to time queries of ``feed``.

        Args:
            cuda_graph: launch the kernels as one CUDA graph, where the engine can be captured.
            transfers: copy inputs and outputs in every query.
        """

    def state(self) -> DeviceState | None:
        """The GPU now; ``None`` where nothing tells."""
