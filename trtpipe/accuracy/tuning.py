"""The smallest set of layers kept in higher precision that holds a budget on the true metric, in a dozen evaluations.

Let ``e_g`` be the noise a group of layers adds alone (``sensitivity``) and ``c_g`` its multiply-accumulates.

1. All groups in 8 bits. If the budget holds, nothing needs to be kept.
2. Groups are ordered by harm, ``e_g / c_g``: what is kept first frees most noise for least work.
3. How many of the first have to be kept is found by bisection on the metric. Noise powers nearly add up and small
   losses are nearly proportional to them, so the first guess is where the noise left is the share of all noise that
   the budget is of the loss.
4. Backward elimination (Zeller & Hildebrandt 2002, "delta debugging"): of what is kept, halves, quarters, ... single
   groups are put back into 8 bits, the least harmful first, while the budget holds.

Compare NNCF's accuracy control, which validates once for every group it takes out, and ranks by metric, not by noise.
Everything is deterministic; evaluations are remembered, so that an interrupted search goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trtpipe.artifact import Record

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from trtpipe.accuracy.sensitivity import GroupSensitivity

#: Evaluations that are left to elimination if anything is kept.
_RESERVED = 3


class Trial(Record):
    """One evaluation.

    Attributes:
        kept: groups in higher precision, by number; empty for all in 8 bits.
        loss: how much worse the metric is than float32's.
        holds: whether that is within the budget.
    """

    kept: tuple[int, ...]
    loss: float
    holds: bool


class OutOfTime(Exception):
    """The time budget is used up."""


@dataclass
class Search:
    """One search.

    Args:
        groups: with noise and multiply-accumulates, in graph order.
        loss: how much worse than float32 the metric is with these groups kept; may raise OutOfTime.
        allowed: the largest loss that is accepted.
        most: evaluations at most.
    """

    groups: Sequence[GroupSensitivity]
    loss: Callable[[tuple[int, ...]], float]
    allowed: float
    most: int
    trials: list[Trial] = field(default_factory=list)

    @property
    def everything(self) -> tuple[int, ...]:
        """All groups kept: the float32 model, which holds every budget on its own loss."""
        return tuple(range(len(self.groups)))

    def run(self) -> tuple[int, ...] | None:
        """The groups to keep; ``None`` if not even float32 holds the budget.

        Ends early, with the best set known, when OutOfTime is raised.
        """
        try:
            if self._holds(()):
                return ()
            if self.allowed < 0:
                return None
            self._eliminate(self._bisect())
        except OutOfTime:
            pass
        return self.best()

    def best(self) -> tuple[int, ...] | None:
        """Of the sets that hold, the one that keeps least work; all groups if none was tried that does."""
        holding = [trial.kept for trial in self.trials if trial.holds]
        if not holding:
            return self.everything if self.allowed >= 0 else None
        return min(holding, key=lambda kept: (self.work(kept), len(kept), kept))

    def work(self, kept: Collection[int]) -> int:
        """Multiply-accumulates of groups."""
        return sum(self.groups[index].macs for index in kept)

    def _bisect(self) -> tuple[int, ...]:
        """The shortest prefix, by harm, that is known to hold."""
        order = sorted(self.everything, key=lambda index: (-self.groups[index].harm, index))
        low, high = 0, len(order)  # a prefix of length low fails, one of length high holds
        guess = self._guess(order)
        while high - low > 1 and len(self.trials) < self.most - _RESERVED:
            middle = min(max(guess, low + 1), high - 1)
            if self._holds(order[:middle]):
                high = middle
            else:
                low = middle
            guess = 2 * low if high == len(order) else (low + high) // 2
        return tuple(sorted(order[:high]))

    def _guess(self, order: Sequence[int]) -> int:
        """How many of ``order`` to keep so that the noise left is to all noise as the budget is to the loss."""
        left = sum(self.groups[index].noise for index in order)
        enough = left * min(self.allowed / max(self.trials[0].loss, 1e-12), 1.0)
        for count, index in enumerate(order):
            if left <= enough:
                return count
            left -= self.groups[index].noise
        return len(order)

    def _eliminate(self, kept: tuple[int, ...]) -> None:
        """Put back what need not be kept, as long as evaluations are left."""
        current = list(kept)
        size = math.ceil(len(current) / 2)
        while size and current:
            candidates = sorted(current, key=lambda index: (self.groups[index].harm, index))
            for start in range(0, len(candidates), size):
                part = candidates[start : start + size]
                smaller = [index for index in current if index not in part]
                if smaller and len(smaller) < len(current):
                    if len(self.trials) >= self.most:
                        return
                    if self._holds(smaller):
                        current = smaller
            size = size // 2

    def _holds(self, kept: Sequence[int]) -> bool:
        chosen = tuple(sorted(kept))
        for trial in self.trials:
            if trial.kept == chosen:
                return trial.holds
        loss = self.loss(chosen)
        self.trials.append(Trial(kept=chosen, loss=loss, holds=loss <= self.allowed + 1e-12))
        return self.trials[-1].holds
