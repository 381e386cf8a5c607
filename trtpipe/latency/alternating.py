"""Paired timing: two runners in turns on one machine, so that other load slows both equally."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.latency.measuring import timer, warm_up
from trtpipe.latency.reports import PairedComparison
from trtpipe.latency.statistics import CONFIDENCE, interval
from trtpipe.progress import Progress, track

if TYPE_CHECKING:
    from trtpipe.artifact import Feed
    from trtpipe.backends.base import OpenRunner
    from trtpipe.backends.timing import Timer
    from trtpipe.config.profile import MeasuringSettings

#: In each round both run for a while, in alternating order.
ROUNDS = 30
_ROUND_SECONDS = 0.02
#: A slowdown up to this share is tolerated.
_TOLERATED = 0.03
#: Significance level of ``is_slower``: a low rate of false alarms.
_ALPHA = 0.002


def alternate(
    old: OpenRunner, new: OpenRunner, feed: Feed, settings: MeasuringSettings, progress: Progress, rounds: int = ROUNDS
) -> np.ndarray:
    """Time both in turns on ``feed``: engines on a GPU by CUDA events, other runners by wall time.

    Returns:
        float64[rounds, 2]: seconds a run of the old and the new runner, the median over about 20 ms a turn.
    """
    seconds = np.zeros((rounds, 2))
    with ExitStack() as stack:
        timers = [stack.enter_context(timer(runner, feed, settings)) for runner in (old, new)]
        for each in timers:
            warm_up(each, settings.warmup)
        for number in track(progress, "alternate", range(rounds), rounds):
            for column in (0, 1) if number % 2 == 0 else (1, 0):
                seconds[number, column] = _turn(timers[column])
    return seconds


def evaluate(seconds: np.ndarray, shapes: dict[str, tuple[int, ...]], data: str) -> PairedComparison:
    """The result of ``alternate``. Ratios are per round, so that a slow round is slow for both."""
    ratios = seconds[:, 1] / seconds[:, 0]
    low, high = interval(ratios)
    old, new = (float(x) * 1e3 for x in np.median(seconds, axis=0))
    return PairedComparison(
        shapes=shapes,
        data=data,
        rounds=len(seconds),
        old=old,
        new=new,
        ratio=float(np.median(ratios)),
        low=low,
        high=high,
        confidence=CONFIDENCE,
        faster="new" if high < 1 else "old" if low > 1 else "",
    )


def is_slower(seconds: np.ndarray) -> bool:
    """Whether the new one is slower by more than 3 % in the median round, with statistical significance.

    One-sided sign test, p < 0.002: the null hypothesis is that a round is at most 3 % slower with probability 1/2.
    """
    ratios = seconds[:, 1] / seconds[:, 0]
    count, above = len(ratios), int((ratios > 1 + _TOLERATED).sum())
    p_value = sum(math.comb(count, k) for k in range(above, count + 1)) / 2**count
    return bool(p_value < _ALPHA)


def _turn(timer: Timer) -> float:
    """Median seconds of a run, over about 20 ms of runs."""
    seconds: list[float] = []
    begin = time.perf_counter()
    while not seconds or time.perf_counter() - begin < _ROUND_SECONDS:
        timer.start()
        seconds.append(timer.finish().latency)
    return float(np.median(seconds))
