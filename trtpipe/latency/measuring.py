"""Timing a runner, with trtexec's method: a warm-up by time, then runs until the duration is over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.latency.reports import Latency

if TYPE_CHECKING:
    from trtpipe.backends.base import Feed, OpenRunner
    from trtpipe.profile import LatencySettings
    from trtpipe.progress import Progress

#: trtexec's least number of iterations.
_LEAST_ITERATIONS = 10


def measure(
    runner: OpenRunner, feed: Feed, settings: LatencySettings, label: str, progress: Progress, *, on_gpu: bool
) -> Latency:
    """Time runs of ``feed``.

    Args:
        runner: opened.
        feed: one feed; the same for all runs.
        settings: warm-up and duration in seconds.
        label: of the artifact.
        on_gpu: whether the runner is a GPU.
    """
    warm = time.perf_counter() + settings.warmup
    while True:
        runner.time(feed)
        if time.perf_counter() >= warm:
            break
    times: list[float] = []
    begin = time.perf_counter()
    shown = begin
    now = begin
    while now - begin < settings.duration or len(times) < _LEAST_ITERATIONS:
        times.append(runner.time(feed))
        now = time.perf_counter()
        if now - shown > 0.1:
            shown = now
            progress.advance(
                "measure", min(int((now - begin) * 10), int(settings.duration * 10)), int(settings.duration * 10)
            )
    return summarise(
        np.asarray(times),
        {name: value.shape for name, value in feed.items()},
        settings.warmup,
        label,
        runner.device,
        on_gpu,
    )


def summarise(
    seconds: np.ndarray, shapes: dict[str, tuple[int, ...]], warmup: float, label: str, device: str, on_gpu: bool
) -> Latency:
    """Figures of a series of run times.

    Args:
        seconds: float64, one a run.
    """
    ms = seconds * 1e3
    median, p90, p95, p99 = (float(value) for value in np.percentile(ms, [50, 90, 95, 99]))
    mean = float(ms.mean())
    return Latency(
        artifact=label,
        runner=device,
        on_gpu=on_gpu,
        shapes=shapes,
        warmup_seconds=warmup,
        iterations=len(ms),
        min=float(ms.min()),
        max=float(ms.max()),
        mean=mean,
        median=median,
        p90=p90,
        p95=p95,
        p99=p99,
        cov=float(ms.std() / mean * 100) if mean else 0.0,
        throughput_qps=float(len(seconds) / seconds.sum()) if seconds.sum() else 0.0,
    )
