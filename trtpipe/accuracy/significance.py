"""Is a metric worse, or was it luck? Paired tests on the same samples, and what they could have shown.

- 0/1 scores: McNemar's exact test (McNemar 1947; the exact binomial form, e.g. Dietterich 1998): of the samples whose
  score changed, ``b`` fell and ``c`` rose; without a real change each is as likely as the other, so ``b`` follows
  Binomial(b + c, 1/2).
- Any other scores: the paired bootstrap (Efron & Tibshirani 1993; Koehn 2004): resample the samples, recompute both
  metrics, count how often the loss vanishes. Seeded, so the same data give the same answer.
- No scores of single samples, but a share and its sample count: the two-proportion z-test, which is blind to pairing
  and so needs a larger fall.

All are one-sided: only a worse metric is a regression.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trtpipe.accuracy.reports import MetricValue
    from trtpipe.accuracy.scores import Scores

#: A fall is called one if luck would explain it less often than this.
ALPHA = 0.05
#: Normal quantiles: of ALPHA one-sided, of 80 % power, of a 95 % interval.
_Z_ALPHA, _Z_POWER, _Z_INTERVAL = 1.6449, 0.8416, 1.96
#: The fewest samples that must all fall to make p < ALPHA: 0.5 ** 5 = 0.031.
_LEAST_FLIPS = 5
_RESAMPLES = 2000
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Test:
    """The outcome of a test.

    Attributes:
        name: which test.
        p: how often luck alone would do as much; ``None`` if nothing could be tested.
        low, high: a 95 % interval of the loss.
        detectable: the smallest loss this data would show four times out of five; ``None`` if unknown.
    """

    name: str
    p: float | None
    low: float
    high: float
    detectable: float | None

    @property
    def significant(self) -> bool:
        """Whether luck is no good explanation."""
        return self.p is not None and self.p < ALPHA


def compare_metric(old: MetricValue, new: MetricValue) -> Test:
    """Test whether ``new`` is worse than ``old``; both measured on the same samples."""
    loss = new.loss(old)
    if old.scores and new.scores and old.scores.samples == new.scores.samples and old.scores.samples:
        sign = 1.0 if old.lower_is_better else -1.0
        if old.scores.kind == new.scores.kind == "hits":
            return _mcnemar(old.scores, new.scores, sign)
        return _bootstrap(old.scores, new.scores, loss, sign)
    count = min(old.samples, new.samples)
    if count > 0 and 0 <= old.value <= 1 and 0 <= new.value <= 1:
        return _two_proportions(old.value, new.value, loss, count)
    return Test("none: no scores of single samples", None, loss, loss, None)


def mcnemar_p(fell: int, rose: int) -> float:
    """P(at least ``fell`` heads of ``fell + rose`` fair coins), exact; in logarithms, so that no count is too large."""
    count = fell + rose
    logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(fell, count + 1)]
    return min(1.0, math.fsum(math.exp(log - count * math.log(2)) for log in logs))


def _mcnemar(old: Scores, new: Scores, sign: float) -> Test:
    a, b = old.arrays()[0], new.arrays()[0]
    fell, rose = int((sign * (b - a) > 0).sum()), int((sign * (b - a) < 0).sum())
    count = len(a)
    loss, spread = (fell - rose) / count, math.sqrt(fell + rose) / count  # McNemar's standard error
    detectable = max(_LEAST_FLIPS / count, (_Z_ALPHA + _Z_POWER) * spread)
    return Test(
        f"McNemar exact, {fell} fell and {rose} rose of {count}",
        mcnemar_p(fell, rose),
        max(-1.0, loss - _Z_INTERVAL * spread),
        min(1.0, loss + _Z_INTERVAL * spread),
        detectable,
    )


def _bootstrap(old: Scores, new: Scores, loss: float, sign: float) -> Test:
    (a, wa), (b, wb) = old.arrays(), new.arrays()
    count = len(a)
    name = f"paired bootstrap, {count} samples, {_RESAMPLES} resamples"
    if np.array_equal(a, b) and np.array_equal(wa, wb) and not loss:
        return Test(name, 1.0, 0.0, 0.0, None)
    generator = np.random.default_rng(0)
    losses: list[np.ndarray] = []
    per = max(1, _CHUNK // count)
    for start in range(0, _RESAMPLES, per):
        picked = generator.integers(0, count, (min(per, _RESAMPLES - start), count))
        with np.errstate(invalid="ignore", divide="ignore"):
            one = b[picked].sum(axis=1) / wb[picked].sum(axis=1) - a[picked].sum(axis=1) / wa[picked].sum(axis=1)
        losses.append(np.nan_to_num(one))
    found = sign * np.concatenate(losses)
    low, high = (float(x) for x in np.percentile(found, [2.5, 97.5]))
    # ties count half: where half of the resamples show nothing at all, nothing was shown
    p = float(((found < 0).sum() + 0.5 * (found == 0).sum() + 1) / (len(found) + 1))
    return Test(name, p, low, high, (_Z_ALPHA + _Z_POWER) * float(found.std()))


def _two_proportions(old: float, new: float, loss: float, count: int) -> Test:
    spread = math.sqrt((old * (1 - old) + new * (1 - new)) / count)
    p = 0.5 * math.erfc(loss / spread / math.sqrt(2)) if spread else float(loss <= 0)
    half = _Z_INTERVAL * spread
    detectable = max(_LEAST_FLIPS / count, (_Z_ALPHA + _Z_POWER) * spread)
    return Test(f"two proportions of {count}, not paired", p, loss - half, loss + half, detectable)
