"""Is a metric significantly worse? Paired tests on the same samples, and their minimum detectable drop.

- 0/1 scores: McNemar's exact test (McNemar 1947; the exact binomial form, e.g. Dietterich 1998): of the samples whose
  score changed, ``b`` regressed and ``c`` improved; under the null hypothesis ``b`` follows Binomial(b + c, 1/2).
- Any other scores: the paired randomization test (Fisher 1935; Noreen 1989), of which McNemar's is the case of 0 and 1:
  under the null hypothesis the two scores of a sample are exchangeable. Swap them at random, and count how often the
  loss is as large; with few changed samples, over all permutations. A bootstrap (Efron & Tibshirani 1993) gives the
  interval of the loss, but no p: with few changed samples it would call three regressions significant, which have
  p = 1/8. Seeded, so equal data give equal results.
- No scores of single samples, but a share and its sample count: the two-proportion z-test, which ignores pairing and
  so needs a larger drop.

All are one-sided: only a worse metric is a regression.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtpipe.accuracy.meter import Scores
    from trtpipe.accuracy.reports import MetricValue

#: The significance level, one-sided.
ALPHA = 0.05
#: Normal quantiles: of ALPHA one-sided, of 80 % power, of a 95 % interval.
_Z_ALPHA, _Z_POWER, _Z_INTERVAL = 1.6449, 0.8416, 1.96
#: The fewest regressed samples, with none improved, that give p < ALPHA: 0.5 ** 5 = 0.031.
_LEAST_CHANGED = 5
_RESAMPLES = 2000
#: Up to so many changed samples all permutations are enumerated: 2 ** 10 of them.
_EXACT_LIMIT = 10
_CHUNK = 4_000_000


@dataclass(frozen=True)
class SignificanceTest:
    """The result of a one-sided test for a loss.

    Attributes:
        name: the test, with its counts.
        p: the p-value; ``None`` if no test applies.
        low, high: the 95 % interval of the loss.
        detectable: the minimum detectable drop at 80 % power; ``None`` if unknown.
    """

    name: str
    p: float | None
    low: float
    high: float
    detectable: float | None

    @property
    def significant(self) -> bool:
        """Whether p is below ALPHA."""
        return self.p is not None and self.p < ALPHA


def compare_metric(old: MetricValue, new: MetricValue) -> SignificanceTest:
    """SignificanceTest whether ``new`` is worse than ``old``; both measured on the same samples."""
    loss = new.loss(old)
    if old.scores and new.scores and old.scores.samples == new.scores.samples and old.scores.samples:
        sign = 1.0 if old.lower_is_better else -1.0
        if old.scores.kind == new.scores.kind == "hits":
            return _mcnemar(old.scores, new.scores, sign)
        return _randomization(old.scores, new.scores, sign)
    count = min(old.samples, new.samples)
    if count > 0 and 0 <= old.value <= 1 and 0 <= new.value <= 1:
        return _two_proportions(old.value, new.value, loss, count)
    return SignificanceTest("not tested: no scores of single samples", None, loss, loss, None)


def mcnemar_p(regressed: int, improved: int) -> float:
    """P(X >= ``regressed``) for X of Binomial(``regressed + improved``, 1/2), exact; by logarithms, for any count."""
    count = regressed + improved
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(regressed, count + 1)
    ]
    return min(1.0, math.fsum(math.exp(log - count * math.log(2)) for log in logs))


def _mcnemar(old: Scores, new: Scores, sign: float) -> SignificanceTest:
    a, b = old.arrays()[0], new.arrays()[0]
    regressed, improved = int((sign * (b - a) > 0).sum()), int((sign * (b - a) < 0).sum())
    count = len(a)
    loss, spread = (regressed - improved) / count, math.sqrt(regressed + improved) / count  # McNemar's standard error
    detectable = max(_LEAST_CHANGED / count, (_Z_ALPHA + _Z_POWER) * spread)
    return SignificanceTest(
        f"McNemar exact, {regressed} regressed, {improved} improved of {count}",
        mcnemar_p(regressed, improved),
        max(-1.0, loss - _Z_INTERVAL * spread),
        min(1.0, loss + _Z_INTERVAL * spread),
        detectable,
    )


@dataclass(frozen=True)
class _Sums:
    """Two metrics as sums over samples: parts over weights, before and after; each float64[samples].

    Attributes:
        sign: 1 where a higher value is worse, else -1.
    """

    old: np.ndarray
    old_weights: np.ndarray
    new: np.ndarray
    new_weights: np.ndarray
    sign: float

    def picked(self, samples: np.ndarray) -> np.ndarray:
        """float64[resamples]: the loss on each resample; ``samples`` is int64[resamples, samples]."""
        sums = (self.old, self.old_weights, self.new, self.new_weights)
        return self._loss(*(each[samples].sum(axis=1) for each in sums))

    def swapped(self, swaps: np.ndarray, changed: np.ndarray) -> np.ndarray:
        """float64[ways]: the loss if old and new are swapped in the changed samples that bool[ways, changed] marks."""
        part = swaps @ (self.new - self.old)[changed]
        weight = swaps @ (self.new_weights - self.old_weights)[changed]
        old, new = self.old.sum() + part, self.new.sum() - part
        return self._loss(old, self.old_weights.sum() + weight, new, self.new_weights.sum() - weight)

    def _loss(self, old: np.ndarray, old_weight: np.ndarray, new: np.ndarray, new_weight: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            loss: np.ndarray = np.nan_to_num(self.sign * (new / new_weight - old / old_weight))
        return loss


def _randomization(old: Scores, new: Scores, sign: float) -> SignificanceTest:
    sums = _Sums(*old.arrays(), *new.arrays(), sign)
    worse = sign * (sums.new - sums.old)
    changed = np.flatnonzero((worse != 0) | (sums.new_weights != sums.old_weights))
    count = len(worse)
    name = f"paired randomization, {(worse > 0).sum()} regressed, {(worse < 0).sum()} improved of {count}"
    if not changed.size:
        return SignificanceTest(name, 1.0, 0.0, 0.0, None)
    generator = np.random.default_rng(0)
    found = _in_chunks(count, lambda rows: sums.picked(generator.integers(0, count, (rows, count))))
    low, high = (float(x) for x in np.percentile(found, [2.5, 97.5]))
    one = float(np.abs(worse[changed]).mean() / max(sums.old_weights.sum(), 1.0))  # mean loss of a changed sample
    detectable = max(_LEAST_CHANGED * one, (_Z_ALPHA + _Z_POWER) * float(found.std()))
    return SignificanceTest(name, _permutation_p(sums, changed, generator), low, high, detectable)


def _permutation_p(sums: _Sums, changed: np.ndarray, generator: np.random.Generator) -> float:
    """The share of random swaps of old and new whose loss is at least as large."""
    size = len(changed)
    least = float(sums.swapped(np.zeros((1, size), bool), changed)[0])
    least -= 1e-9 * abs(least)  # sums in another order are rounded otherwise
    if size <= _EXACT_LIMIT:
        every = (np.arange(2**size)[:, np.newaxis] >> np.arange(size) & 1).astype(bool)
        return float((sums.swapped(every, changed) >= least).mean())
    found = _in_chunks(size, lambda rows: sums.swapped(generator.random((rows, size)) < 0.5, changed))
    return float(((found >= least).sum() + 1) / (len(found) + 1))


def _in_chunks(width: int, losses: Callable[[int], np.ndarray]) -> np.ndarray:
    """float64[_RESAMPLES]: ``losses`` of so many rows at a time that a few million numbers are held."""
    per = max(1, _CHUNK // width)
    return np.concatenate([losses(min(per, _RESAMPLES - start)) for start in range(0, _RESAMPLES, per)])


def _two_proportions(old: float, new: float, loss: float, count: int) -> SignificanceTest:
    spread = math.sqrt((old * (1 - old) + new * (1 - new)) / count)
    p = 0.5 * math.erfc(loss / spread / math.sqrt(2)) if spread else float(loss <= 0)
    half = _Z_INTERVAL * spread
    detectable = max(_LEAST_CHANGED / count, (_Z_ALPHA + _Z_POWER) * spread)
    return SignificanceTest(f"two proportions of {count}, not paired", p, loss - half, loss + half, detectable)
