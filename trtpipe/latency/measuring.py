"""Measures latency as trtexec does: warm up, then run for the duration and the minimum number of iterations.

The notes of a measurement are the warnings that trtexec gives, and what the state of the GPU shows.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING

from trtpipe.backends.timing import QueryTimes
from trtpipe.config.requirements import install
from trtpipe.latency.reports import Latency, Times
from trtpipe.latency.statistics import spread, times, windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from trtpipe.artifact import Feed
    from trtpipe.backends.base import OpenRunner
    from trtpipe.backends.timing import DeviceRunner, DeviceState, Timer
    from trtpipe.config.profile import MeasuringSettings
    from trtpipe.progress import Progress

#: Share of the duration for which whole inferences through Polygraphy are timed in addition.
_END_TO_END = 1 / 3
#: Largest variation of kernel times that counts as stable, in percent of the mean: trtexec's threshold.
STABLE_COV = 2.5
#: Largest difference between windows that counts as stable, in percent: the default of Triton's perf_analyzer.
STABLE_SPREAD = 10.0
#: Share of the kernels' time above which launching them is the bound: trtexec's threshold.
_LAUNCH_BOUND = 0.8
#: Share of its clock that a GPU may lose without a note.
_CLOCK_LOSS = 0.05


class HostTimer:
    """Implements ``Timer`` for runners on the CPU: the wall time of a run."""

    cuda_graph = False
    notes: tuple[str, ...] = ()

    def __init__(self, runner: OpenRunner, feed: Feed) -> None:
        self._runner = runner
        self._feed = feed
        self._done: deque[float] = deque()

    def start(self) -> None:
        """Run until the outputs are there."""
        self._done.append(self._runner.time(self._feed))

    def finish(self) -> QueryTimes:
        """The oldest run that was not returned yet; all of it counts as compute."""
        return QueryTimes(enqueue=0.0, h2d=0.0, compute=self._done.popleft(), d2h=0.0)


def timer(runner: OpenRunner, feed: Feed, settings: MeasuringSettings) -> AbstractContextManager[Timer]:
    """CUDA events for an engine on a GPU, wall time for any other runner."""
    if runner.gpu is not None:
        return runner.gpu.timer(feed, cuda_graph=settings.cuda_graph, transfers=settings.transfers)
    return nullcontext(HostTimer(runner, feed))


def measure(
    runner: OpenRunner,
    feed: Feed,
    data: str,
    settings: MeasuringSettings,
    label: str,
    progress: Progress,
    *,
    on_gpu: bool,
) -> Latency:
    """Time inferences of ``feed``.

    Args:
        runner: an engine on a GPU is timed by CUDA events, any other runner by wall time.
        feed: the inputs of all runs.
        data: description of these values.
        settings: duration, iterations, and which parts of an inference count.
        label: of the artifact.
        on_gpu: whether the runner is a GPU.
    """
    with timer(runner, feed, settings) as clock:
        warm_up(clock, settings.warmup)
        before = _state(runner.gpu)
        queries, wall = run(clock, settings.duration, settings.iterations, progress)
        after = _state(runner.gpu)
        cuda_graph, notes = clock.cuda_graph, clock.notes
    seconds = [query.latency for query in queries]
    parts: dict[str, Times] = {}
    if runner.gpu is not None:
        whole, _ = run(HostTimer(runner, feed), settings.duration * _END_TO_END, settings.iterations, progress)
        parts = _parts(queries, whole, transfers=settings.transfers)
    medians = windows(seconds)
    figures = times(seconds)
    varies = parts["gpu_compute"].cov if "gpu_compute" in parts else figures.cov if on_gpu else 0.0
    found = Latency(
        **figures.to_dict(),
        artifact=label,
        runner=runner.device,
        on_gpu=on_gpu,
        shapes={name: value.shape for name, value in feed.items()},
        data=data,
        warmup_seconds=settings.warmup,
        iterations=len(queries),
        throughput_qps=len(queries) / wall if wall else 0.0,
        wall_seconds=wall,
        parts=parts,
        windows=medians,
        spread=spread(medians),
        stable=spread(medians) <= STABLE_SPREAD and varies <= STABLE_COV,
        cuda_graph=cuda_graph,
        before=before,
        after=after,
    )
    return found.model_copy(update={"notes": (*notes, *advice(found))})


def warm_up(timer: Timer, seconds: float) -> None:
    """Run for ``seconds``, at least once."""
    end = time.perf_counter() + seconds
    while True:
        timer.start()
        timer.finish()
        if time.perf_counter() >= end:
            return


def run(timer: Timer, seconds: float, least: int, progress: Progress) -> tuple[list[QueryTimes], float]:
    """Run for ``seconds`` and at least ``least`` times, with a second query enqueued while one runs.

    Returns:
        The times of each query, and the wall time of all of them in seconds.
    """
    queries: list[QueryTimes] = []
    begin = shown = time.perf_counter()
    timer.start()
    more = True
    while more:
        more = time.perf_counter() - begin < seconds or len(queries) + 1 < least
        if more:
            timer.start()
        queries.append(timer.finish())
        now = time.perf_counter()
        if now - shown > 0.1:
            shown = now
            progress.advance("measure", min(int((now - begin) * 10), int(seconds * 10)), int(seconds * 10))
    return queries, time.perf_counter() - begin


def _parts(queries: Sequence[QueryTimes], whole: Sequence[QueryTimes], *, transfers: bool) -> dict[str, Times]:
    copies = {"h2d": times([q.h2d for q in queries]), "d2h": times([q.d2h for q in queries])} if transfers else {}
    return {
        "gpu_compute": times([query.compute for query in queries]),
        "enqueue": times([query.enqueue for query in queries]),
        **copies,
        "end_to_end": times([query.latency for query in whole]),
    }


def _state(gpu: DeviceRunner | None) -> DeviceState | None:
    return None if gpu is None else gpu.state()


def advice(found: Latency) -> tuple[str, ...]:
    """Notes on one measurement; none if its figures can be quoted as they are."""
    return (*_variation(found), *_bounds(found), *_clocks(found))


def _variation(found: Latency) -> Iterator[str]:
    first, last = found.windows[0], found.windows[-1]
    if found.spread > STABLE_SPREAD:
        yield (
            f"unstable: windows of the measurement differ by {found.spread:.0f} % "
            f"(first {first:.3g} ms, last {last:.3g} ms); measure longer, on an idle machine"
        )
    compute = found.parts.get("gpu_compute", found)
    if found.on_gpu and compute.cov > STABLE_COV:
        yield f"unstable: GPU compute time varies by {compute.cov:.1f} %; lock the GPU's clocks"


def _bounds(found: Latency) -> Iterator[str]:
    """What the throughput is bound by, as trtexec reports it."""
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
        yield f"the GPU's clocks were not read: {install('gpu')}; NVML reports none for a Jetson"
        return
    reasons = dict.fromkeys((*found.before.throttled, *found.after.throttled))
    if reasons:
        yield f"the GPU was throttled: {', '.join(reasons)}"
    begin, end = found.before.sm_mhz, found.after.sm_mhz
    if begin and end and end < begin * (1 - _CLOCK_LOSS):
        yield f"the GPU's clock fell from {begin} to {end} MHz during the measurement"
    if (found.after.processes or 1) > 1:
        yield f"{found.after.processes} programs use the GPU: measure on an idle one"
