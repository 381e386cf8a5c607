"""Two runners on one machine, in turns, so that whatever else the machine does slows both alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.progress import Progress, track

if TYPE_CHECKING:
    from trtpipe.backends.base import Feed, OpenRunner

#: Rounds; in each one both run for a while, and who begins changes.
ROUNDS = 30
_ROUND_SECONDS = 0.02
#: Slower by less than this share is nobody's business.
_TOLERATED = 0.03
#: Share of equal pairs that may look unequal: a gate that cries wolf is switched off.
_ALPHA = 0.002


@dataclass(frozen=True)
class Duel:
    """How much slower the second of two runners is.

    Attributes:
        old, new: median run time in milliseconds.
        ratio: median over the rounds of new / old.
        low, high: its quartiles over the rounds.
        slower: whether the median is more than 3 % slower, and luck is no good explanation.
    """

    old: float
    new: float
    ratio: float
    low: float
    high: float
    slower: bool


def duel(old: OpenRunner, new: OpenRunner, feed: Feed, progress: Progress, rounds: int = ROUNDS) -> Duel:
    """Time both in turns on ``feed``; a round is as many runs as take 20 ms."""
    times = np.zeros((rounds, 2))
    for runner in (old, new):
        _seconds(runner, feed)  # warm
    for number in track(progress, "alternate", range(rounds), rounds):
        pair = ((0, old), (1, new)) if number % 2 == 0 else ((1, new), (0, old))
        for column, runner in pair:
            times[number, column] = _seconds(runner, feed)
    return judge(times)


def judge(times: np.ndarray) -> Duel:
    """The verdict on float64[rounds, 2]: seconds a run of the old and the new runner in every round.

    The sign test: were the median no more than 3 % slower, at most half of the rounds would be, and so many as are
    would come about by luck with a probability below 0.002.
    """
    ratios = times[:, 1] / times[:, 0]
    low, ratio, high = (float(x) for x in np.percentile(ratios, [25, 50, 75]))
    old, new = (float(x) * 1e3 for x in np.median(times, axis=0))
    count, above = len(ratios), int((ratios > 1 + _TOLERATED).sum())
    luck = sum(math.comb(count, k) for k in range(above, count + 1)) / 2**count
    return Duel(old, new, ratio, low, high, slower=luck < _ALPHA)


def _seconds(runner: OpenRunner, feed: Feed) -> float:
    """Seconds a run, the mean over about 20 ms."""
    runs, passed = 0, 0.0
    while True:
        passed += runner.time(feed)
        runs += 1
        if passed >= _ROUND_SECONDS:
            return passed / runs
