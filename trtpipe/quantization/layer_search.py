"""The smallest set of layers kept in higher precision that holds a budget on the true metric, in a few evaluations.

Let ``e_g`` be the noise a group of layers adds alone (``sensitivity``) and ``c_g`` its multiply-accumulates.

1. All groups in 8 bits. If the budget holds, nothing needs to be kept.
2. Of all choices of groups only those matter than which none keeps less work and leaves less noise: a frontier, from
   nothing kept to everything. Powers nearly add up, so it is a knapsack's (``frontier``).
3. The least of it that holds is found by the secant method on the metric. Small losses are nearly a power of noise,
   with the exponent 1 at first: the first guess is where the noise left is the share of all noise that the budget is
   of the loss. Then the exponent is that of the two trials nearest to the budget. Bisection where that leads too far.
4. With evaluations left, backward elimination (Zeller & Hildebrandt 2002, "delta debugging"): of what is kept, halves,
   quarters, ... single groups are put back into 8 bits, the least sensitive first, while the budget holds.
5. What the noise did not foresee: with evaluations left, choices that keep less work, the least noise first; for up to
   a dozen groups.

Compare NNCF's accuracy control, which validates once for every group it takes out, and ranks by metric, not by noise.
Everything is deterministic; evaluations are remembered, so that an interrupted search goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

from trtpipe.artifact import Record

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from trtpipe.quantization.sensitivity import GroupSensitivity

#: Exponents of the noise between which a loss is taken to grow: two trials near each other tell any.
_EXPONENTS = (0.5, 4.0)
#: Up to so many groups all choices are looked through.
_EXHAUSTIVE = 12
#: Choices on the frontier, about.
_STEPS = 256


class LayerTrial(Record):
    """One evaluation.

    Attributes:
        kept: groups in higher precision, by number; empty for all in 8 bits.
        loss: how much worse the metric is than float32's.
        holds: whether that is within the budget.
    """

    kept: tuple[int, ...]
    loss: float
    holds: bool


class TimeBudgetSpent(Exception):
    """The time budget is used up."""


@dataclass
class Search:
    """One search.

    Args:
        groups: with noise and multiply-accumulates, in graph order.
        loss: how much worse than float32 the metric is with these groups kept; may raise TimeBudgetSpent.
        allowed: the largest loss that is accepted.
        most: evaluations at most.
        exact: whether all groups kept is the float32 model itself, which loses nothing; else that is evaluated too.
        limit: multiply-accumulates that may be kept at most; ``None``: all.
    """

    groups: Sequence[GroupSensitivity]
    loss: Callable[[tuple[int, ...]], float]
    allowed: float
    most: int
    exact: bool = True
    limit: int | None = None
    trials: list[LayerTrial] = field(default_factory=list)

    @cached_property
    def choices(self) -> list[tuple[int, ...]]:
        """The frontier, as far as the limit of work allows."""
        return [kept for kept in frontier(self.groups) if self.limit is None or self.work(kept) <= self.limit]

    @property
    def everything(self) -> tuple[int, ...]:
        """All groups kept: the float32 model, which holds every budget on its own loss, or 16 bits; or what the limit
        allows.
        """
        return self.choices[-1]

    def run(self) -> tuple[int, ...] | None:
        """The groups to keep; ``None`` if not even keeping all is known to hold the budget.

        Ends early, with the best set known, when TimeBudgetSpent is raised.
        """
        try:
            if self._holds(()):
                return ()
            if self.allowed < 0 or not (self.exact or self._holds(self.everything)):
                return None
            self._eliminate(self._bisect())
            self._others()
        except TimeBudgetSpent:
            pass
        return self.best()

    def best(self) -> tuple[int, ...] | None:
        """Of the sets that hold, the one that keeps least work; if none was tried that does, all groups as float32."""
        holding = [trial.kept for trial in self.trials if trial.holds]
        if not holding:
            return self.everything if self.exact and self.allowed >= 0 else None
        return min(holding, key=lambda kept: (self.work(kept), len(kept), kept))

    def work(self, kept: Collection[int]) -> int:
        """Multiply-accumulates of groups."""
        return sum(self.groups[index].macs for index in kept)

    def _bisect(self) -> tuple[int, ...]:
        """The choice of the frontier with least work that is known to hold."""
        choices = self.choices
        left = [self._noise(kept) for kept in choices]
        low, high = 0, len(choices) - 1  # choice low fails, choice high holds
        while high - low > 1 and len(self.trials) < self.most:
            enough = self._enough()
            guess = next(index for index, noise in enumerate(left) if noise <= enough or index == high)
            middle = guess if low < guess < high else (low + high) // 2
            if self._holds(choices[middle]):
                high = middle
            else:
                low = middle
        return choices[high]

    def _enough(self) -> float:
        """The noise that may be left, by the trials so far."""
        known = [(self._noise(trial.kept), trial.loss) for trial in self.trials if 0 < trial.loss < math.inf]
        points = [(math.log(noise), math.log(loss / self.allowed)) for noise, loss in known if noise > 0 < self.allowed]
        if not points:
            return 0.0
        (noise, excess), *others = sorted(points, key=lambda point: (abs(point[1]), point))
        slopes = [(excess - other[1]) / (noise - other[0]) for other in others[:1] if other[0] != noise]
        exponent = min(max(slopes[0], _EXPONENTS[0]), _EXPONENTS[1]) if slopes else 1.0
        return math.exp(noise - excess / exponent)

    def _noise(self, kept: Collection[int]) -> float:
        """Noise that is left, as the sum of the groups' says."""
        return sum(group.noise for index, group in enumerate(self.groups) if index not in kept)

    def _eliminate(self, kept: tuple[int, ...]) -> None:
        """Put back what need not be kept, as long as evaluations are left."""
        current = list(kept)
        size = math.ceil(len(current) / 2)
        while size and current:
            candidates = sorted(current, key=lambda index: (self.groups[index].noise_per_mac, index))
            for start in range(0, len(candidates), size):
                part = candidates[start : start + size]
                smaller = [index for index in current if index not in part]
                if smaller and len(smaller) < len(current):
                    if len(self.trials) >= self.most:
                        return
                    if self._holds(smaller):
                        current = smaller
            size = size // 2

    def _others(self) -> None:
        """Choices that keep less work than the best one, unless one that is known to fail keeps all they do."""
        if len(self.groups) > _EXHAUSTIVE:
            return
        choices = (kept for size in range(len(self.groups)) for kept in combinations(range(len(self.groups)), size))
        for kept in sorted(choices, key=lambda kept: (self._noise(kept), kept)):
            best = self.best()
            failed = any(set(kept) <= set(trial.kept) for trial in self.trials if not trial.holds)
            if best is not None and self.work(kept) < self.work(best) and not failed:
                if len(self.trials) >= self.most:
                    return
                self._holds(kept)

    def _holds(self, kept: Sequence[int]) -> bool:
        chosen = tuple(sorted(kept))
        for trial in self.trials:
            if trial.kept == chosen:
                return trial.holds
        loss = self.loss(chosen)
        self.trials.append(LayerTrial(kept=chosen, loss=loss, holds=loss <= self.allowed + 1e-12))
        return self.trials[-1].holds


def frontier(groups: Sequence[GroupSensitivity]) -> list[tuple[int, ...]]:
    """Choices of groups to keep, by work: each leaves less noise than every one that keeps no more work.

    A dynamic program over the groups, exact up to a few hundred choices; of more, the best in each of equal steps of
    work go on.
    """
    total = sum(group.macs for group in groups)
    front: list[tuple[int, float, tuple[int, ...]]] = [(0, 0.0, ())]
    for index, group in enumerate(groups):
        taken = [(work + group.macs, freed + group.noise, (*kept, index)) for work, freed, kept in front]
        undominated: dict[int, tuple[int, float, tuple[int, ...]]] = {}
        most = -1.0
        for choice in sorted((*front, *taken), key=lambda choice: (choice[0], -choice[1], choice[2])):
            if choice[1] > most:
                most = choice[1]
                step = len(undominated) if len(front) < _STEPS else -(-choice[0] * _STEPS // max(total, 1))
                undominated[step] = choice
        front = list(undominated.values())
    everything = tuple(range(len(groups)))
    return list(dict.fromkeys([(), *(choice[2] for choice in front), everything]))
