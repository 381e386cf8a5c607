"""Two runners on one machine, in turns, so that whatever else the machine does slows both alike."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.latency.measuring import stopwatch, warm_up
from trtpipe.latency.reports import Race
from trtpipe.latency.statistics import CONFIDENCE, interval
from trtpipe.progress import Progress, track

if TYPE_CHECKING:
    from trtpipe.artifact import Feed
    from trtpipe.backends.base import OpenRunner
    from trtpipe.backends.timing import Stopwatch
    from trtpipe.config.profile import LatencySettings

#: Rounds; in each one both run for a while, and who begins changes.
ROUNDS = 30
_ROUND_SECONDS = 0.02
#: Slower by less than this share is nobody's business.
_TOLERATED = 0.03
#: Share of equal pairs that may look unequal: a gate that cries wolf is switched off.
_ALPHA = 0.002


def alternate(
    old: OpenRunner, new: OpenRunner, feed: Feed, settings: LatencySettings, progress: Progress, rounds: int = ROUNDS
) -> np.ndarray:
    """Time both in turns on ``feed``, on the device's clock where there is one.

    Returns:
        float64[rounds, 2]: seconds a run of the old and the new runner, the median over about 20 ms a turn.
    """
    seconds = np.zeros((rounds, 2))
    with ExitStack() as stack:
        watches = [stack.enter_context(stopwatch(runner, feed, settings)) for runner in (old, new)]
        for watch in watches:
            warm_up(watch, settings.warmup)
        for number in track(progress, "alternate", range(rounds), rounds):
            for column in (0, 1) if number % 2 == 0 else (1, 0):
                seconds[number, column] = _turn(watches[column])
    return seconds


def judge(seconds: np.ndarray, shapes: dict[str, tuple[int, ...]], data: str) -> Race:
    """The outcome of ``alternate``. Ratios are taken round by round, so that slow rounds are slow for both."""
    ratios = seconds[:, 1] / seconds[:, 0]
    low, high = interval(ratios)
    old, new = (float(x) * 1e3 for x in np.median(seconds, axis=0))
    return Race(
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
    """Whether the median round of the new one is more than 3 % slower, and luck is no good explanation.

    The sign test: were the median no more than 3 % slower, at most half of the rounds would be, and so many as are
    would come about by luck with a probability below 0.002.
    """
    ratios = seconds[:, 1] / seconds[:, 0]
    count, above = len(ratios), int((ratios > 1 + _TOLERATED).sum())
    luck = sum(math.comb(count, k) for k in range(above, count + 1)) / 2**count
    return bool(luck < _ALPHA)


def _turn(watch: Stopwatch) -> float:
    """Seconds a run, the median of about 20 ms of runs."""
    laps: list[float] = []
    begin = time.perf_counter()
    while not laps or time.perf_counter() - begin < _ROUND_SECONDS:
        watch.start()
        laps.append(watch.finish().latency)
    return float(np.median(laps))
