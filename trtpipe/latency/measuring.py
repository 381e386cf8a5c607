"""Timing a runner as trtexec does: warm up, then run until the time and the least number of runs are over."""

from __future__ import annotations

import time
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING

from trtpipe.backends.timing import DeviceRunner, Lap
from trtpipe.latency.advice import STABLE_COV, STABLE_SPREAD, advice
from trtpipe.latency.reports import Latency, Times
from trtpipe.latency.statistics import spread, times, windows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from trtpipe.artifact import Feed
    from trtpipe.backends.base import OpenRunner
    from trtpipe.backends.timing import DeviceState, Stopwatch
    from trtpipe.config.profile import LatencySettings
    from trtpipe.progress import Progress

#: Share of the duration that whole inferences, through Polygraphy, are timed for in addition.
_END_TO_END = 1 / 3


class HostStopwatch:
    """Implements ``Stopwatch`` for runners without a clock of their own: the wall time of a run."""

    cuda_graph = False
    notes: tuple[str, ...] = ()

    def __init__(self, runner: OpenRunner, feed: Feed) -> None:
        self._runner = runner
        self._feed = feed
        self._done: deque[float] = deque()

    def start(self) -> None:
        """Run, to the end."""
        self._done.append(self._runner.time(self._feed))

    def finish(self) -> Lap:
        """The oldest run whose time was not asked yet; all of it counts as computing."""
        return Lap(enqueue=0.0, h2d=0.0, compute=self._done.popleft(), d2h=0.0)


def stopwatch(runner: OpenRunner, feed: Feed, settings: LatencySettings) -> AbstractContextManager[Stopwatch]:
    """The best clock a runner has."""
    if isinstance(runner, DeviceRunner):
        return runner.stopwatch(feed, cuda_graph=settings.cuda_graph, transfers=settings.transfers)
    return nullcontext(HostStopwatch(runner, feed))


def measure(
    runner: OpenRunner,
    feed: Feed,
    data: str,
    settings: LatencySettings,
    label: str,
    progress: Progress,
    *,
    on_gpu: bool,
) -> Latency:
    """Time inferences of ``feed``.

    Args:
        runner: opened. A DeviceRunner is timed on the device, any other by the wall clock.
        feed: one feed; the same for all runs.
        data: what is in it, in words.
        settings: how long, how often, and what of an inference counts.
        label: of the artifact.
        on_gpu: whether the runner is a GPU.
    """
    with stopwatch(runner, feed, settings) as watch:
        warm_up(watch, settings.warmup)
        before = _state(runner)
        laps, wall = run(watch, settings.duration, settings.iterations, progress)
        after = _state(runner)
        cuda_graph, notes = watch.cuda_graph, watch.notes
    seconds = [lap.latency for lap in laps]
    parts: dict[str, Times] = {}
    if isinstance(runner, DeviceRunner):
        whole, _ = run(HostStopwatch(runner, feed), settings.duration * _END_TO_END, settings.iterations, progress)
        parts = _parts(laps, whole, transfers=settings.transfers)
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
        iterations=len(laps),
        throughput_qps=len(laps) / wall if wall else 0.0,
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


def warm_up(watch: Stopwatch, seconds: float) -> None:
    """Run for that long, at least once."""
    end = time.perf_counter() + seconds
    while True:
        watch.start()
        watch.finish()
        if time.perf_counter() >= end:
            return


def run(watch: Stopwatch, seconds: float, least: int, progress: Progress) -> tuple[list[Lap], float]:
    """Run for ``seconds`` and at least ``least`` times, with a second query enqueued while one is under way.

    Returns:
        The laps, and the wall time of all of them in seconds.
    """
    laps: list[Lap] = []
    begin = shown = time.perf_counter()
    watch.start()
    more = True
    while more:
        more = time.perf_counter() - begin < seconds or len(laps) + 1 < least
        if more:
            watch.start()
        laps.append(watch.finish())
        now = time.perf_counter()
        if now - shown > 0.1:
            shown = now
            progress.advance("measure", min(int((now - begin) * 10), int(seconds * 10)), int(seconds * 10))
    return laps, time.perf_counter() - begin


def _parts(laps: Sequence[Lap], whole: Sequence[Lap], *, transfers: bool) -> dict[str, Times]:
    copies = {"h2d": times([lap.h2d for lap in laps]), "d2h": times([lap.d2h for lap in laps])} if transfers else {}
    return {
        "gpu_compute": times([lap.compute for lap in laps]),
        "enqueue": times([lap.enqueue for lap in laps]),
        **copies,
        "end_to_end": times([lap.latency for lap in whole]),
    }


def _state(runner: OpenRunner) -> DeviceState | None:
    return runner.state() if isinstance(runner, DeviceRunner) else None
