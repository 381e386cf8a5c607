"""Statistics of a series of times, as trtexec has them, and the confidence interval of a ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.latency.reports import Times

if TYPE_CHECKING:
    from collections.abc import Sequence

_WINDOWS = 10
_RESAMPLES = 10_000
CONFIDENCE = 0.95


def times(seconds: Sequence[float] | np.ndarray) -> Times:
    """Distribution of a series of times.

    Args:
        seconds: one per run, at least one.
    """
    ms = np.sort(np.asarray(seconds, np.float64)) * 1e3
    mean = float(ms.mean())
    # trtexec's percentile: the largest time without the slowest ``100 - percent`` percent of the runs, rounded down
    # (``findPercentile`` in samples/common/sampleReporting.cpp, TensorRT 11.1)
    p90, p95, p99 = np.percentile(ms, (90, 95, 99), method="inverted_cdf").tolist()
    return Times(
        min=float(ms[0]),
        max=float(ms[-1]),
        mean=mean,
        median=float(np.median(ms)),
        p90=p90,
        p95=p95,
        p99=p99,
        cov=float(ms.std() / mean * 100) if mean else 0.0,
    )


def windows(seconds: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """Medians, in milliseconds, of up to ten windows of successive runs."""
    ms = np.asarray(seconds, np.float64) * 1e3
    return tuple(float(np.median(part)) for part in np.array_split(ms, min(_WINDOWS, len(ms))))


def spread(medians: Sequence[float]) -> float:
    """The largest window minus the smallest, in percent of their median."""
    middle = float(np.median(medians))
    return (max(medians) - min(medians)) / middle * 100 if middle else 0.0


def interval(ratios: np.ndarray, confidence: float = CONFIDENCE, seed: int = 0) -> tuple[float, float]:
    """Confidence interval of the median of ``ratios`` (float64[rounds]), by the percentile bootstrap.

    Rounds are resampled with replacement 10,000 times (Efron, Tibshirani: An Introduction to the Bootstrap, 1993,
    chapter 13). Equal ratios and seeds give equal intervals.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = ratios[generator.integers(0, len(ratios), (_RESAMPLES, len(ratios)))]
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(np.median(drawn, axis=1), [tail, 100 - tail])
    return float(low), float(high)
