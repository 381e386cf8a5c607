"""Do two models really differ on a case? A paired randomization test that works for any metric.

Both models' answers are recorded once. If the models were equally good, it would not matter whose answer a sample got:
so samples swap their answers at random, the case judges the mixtures, and the share of rounds in which these differ at
least as much as the models themselves did is the chance that the difference means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np

Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Answers:
    """What a model answered to a case.

    Attributes:
        figure: the case's first figure.
        calls: the outputs of every call, in order.
        chained: whether outputs were fed back, so that row r of all calls together is one sample: a stream.
    """

    figure: float
    calls: tuple[Feed, ...]
    chained: bool


def answers(case: ModuleType, run: Callable[[Feed], Feed]) -> Answers:
    """Let the case judge a model, and remember what that said."""
    calls: list[Feed] = []
    chained = False

    def recorded(feed: Feed) -> Feed:
        nonlocal chained
        last = calls[-1].values() if calls else ()
        chained = chained or any(value is output for value in feed.values() for output in last)
        calls.append(run(feed))
        return calls[-1]

    return Answers(_judged(case, recorded), tuple(calls), chained)


def chance(case: ModuleType, one: Answers, other: Answers, rounds: int) -> float:
    """How likely so large a difference is between equally good models (two-sided, as McNemar asks it for top-1)."""
    if all(np.array_equal(a[name], b[name]) for a, b in zip(one.calls, other.calls, strict=True) for name in a):
        return 1.0
    random = np.random.default_rng(0)
    least = abs(one.figure - other.figure) - 1e-12
    as_large = 0
    for _ in range(rounds):
        swaps = _swaps(one, random)
        figures = [_played(case, first, second, swaps) for first, second in ((one, other), (other, one))]
        as_large += abs(figures[0] - figures[1]) >= least
    return (as_large + 1) / (rounds + 1)


def _swaps(answers: Answers, random: np.random.Generator) -> list[np.ndarray]:
    """For every call, which of its rows are swapped."""
    rows = [len(next(iter(call.values()))) for call in answers.calls]
    if answers.chained:
        return [random.random(rows[0]) < 0.5] * len(rows)
    return [random.random(count) < 0.5 for count in rows]


def _played(case: ModuleType, one: Answers, other: Answers, swaps: list[np.ndarray]) -> float:
    mixed = (_mixed(*each) for each in zip(one.calls, other.calls, swaps, strict=True))
    return _judged(case, lambda feed: next(mixed))


def _mixed(one: Feed, other: Feed, swap: np.ndarray) -> Feed:
    """``one`` with some rows of ``other``; outputs without such rows are states that were fed back already."""
    return {
        name: np.where(swap.reshape(-1, *[1] * (value.ndim - 1)), other[name], value)
        if len(value) == len(swap)
        else value
        for name, value in one.items()
    }


def _judged(case: ModuleType, run: Callable[[Feed], Feed]) -> float:
    return float(next(iter(case.evaluate(run).values())))
