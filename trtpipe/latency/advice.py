"""What to know before quoting a latency: the warnings trtexec gives, and what the GPU's state says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.latency.reports import Latency

#: Percent of the mean by which kernel times may vary: trtexec's threshold.
STABLE_COV = 2.5
#: Percent by which windows may differ: the default of Triton's perf_analyzer.
STABLE_SPREAD = 10.0
#: Share of the kernels' time that launching them may take: trtexec's threshold.
_LAUNCH_BOUND = 0.8
#: Share of its clock that a GPU may lose unnoticed.
_CLOCK_LOSS = 0.05


def advice(found: Latency) -> tuple[str, ...]:
    """Notes on one measurement; none where its figures can be quoted as they are."""
    return (*_variation(found), *_bounds(found), *_clocks(found))


def _variation(found: Latency) -> Iterator[str]:
    first, last = found.windows[0], found.windows[-1]
    if found.spread > STABLE_SPREAD:
        yield (
            f"unstable: windows of the measurement differ by {found.spread:.0f} % "
            f"(first {first:.3g} ms, last {last:.3g} ms); measure longer, on a machine that does nothing else"
        )
    compute = found.parts.get("gpu_compute", found)
    if found.on_gpu and compute.cov > STABLE_COV:
        yield f"unstable: GPU compute time varies by {compute.cov:.1f} %; lock the GPU's clocks"


def _bounds(found: Latency) -> Iterator[str]:
    """What keeps the GPU waiting, as trtexec says it."""
    parts = found.parts
    if "gpu_compute" not in parts:
        return
    compute = parts["gpu_compute"].median
    if parts["enqueue"].median > _LAUNCH_BOUND * compute:
        hint = "" if found.cuda_graph else "; a CUDA graph may help"
        yield f"throughput may be bound by launching kernels ({parts['enqueue'].median:.3g} ms) on the host{hint}"
    for name, words in (("h2d", "into"), ("d2h", "out of")):
        if name in parts and parts[name].median >= compute:
            yield f"throughput may be bound by copies {words} the GPU ({parts[name].median:.3g} ms)"


def _clocks(found: Latency) -> Iterator[str]:
    if not found.parts:
        return
    if found.before is None or found.after is None:
        yield "the GPU's clocks were not read: pip install 'trtpipe[gpu]'; of a Jetson NVML tells none"
        return
    reasons = dict.fromkeys((*found.before.throttled, *found.after.throttled))
    if reasons:
        yield f"the GPU was throttled: {', '.join(reasons)}"
    begin, end = found.before.sm_mhz, found.after.sm_mhz
    if begin and end and end < begin * (1 - _CLOCK_LOSS):
        yield f"the GPU's clock fell from {begin} to {end} MHz meanwhile"
    if (found.after.processes or 1) > 1:
        yield f"{found.after.processes} programs use the GPU: measure on one that does nothing else"
