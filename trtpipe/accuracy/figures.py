"""What is kept of one output's differences while feeds go by: sums, extremes and where they were."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.accuracy.reports import OutputParity

if TYPE_CHECKING:
    from polygraphy.comparator import OutputCompareResult

    from trtpipe.config.profile import OutputTolerance


@dataclass
class Agreement:
    """For outputs that hold one score a class: how often the reference's best class is among one's own best."""

    rows: int = 0
    top1: int = 0
    top5: int = 0

    def add(self, mine: np.ndarray, theirs: np.ndarray) -> None:
        """Add the rows of two outputs of shape [rows, classes]; other shapes say nothing of classes."""
        if theirs.ndim != 2 or theirs.shape[1] < 2 or theirs.dtype.kind != "f":
            return
        best = theirs.argmax(axis=1)
        own = np.take_along_axis(mine, best[:, np.newaxis], axis=1)
        before = np.arange(mine.shape[1]) < best[:, np.newaxis]
        rank = (mine > own).sum(axis=1) + ((mine == own) & before).sum(axis=1)
        known = ~np.isnan(own[:, 0])
        self.rows += len(best)
        self.top1 += int(((rank < 1) & known).sum())
        self.top5 += int(((rank < 5) & known).sum())

    def share(self, hits: int) -> float | None:
        """``hits`` of all rows; ``None`` where there are no classes."""
        return hits / self.rows if self.rows else None


@dataclass
class Worst:
    """The largest absolute difference seen so far, and where it was."""

    gap: float = -1.0
    feed: int = 0
    index: tuple[int, ...] = ()

    def add(self, mine: np.ndarray, theirs: np.ndarray, shape: tuple[int, ...], feed: int) -> None:
        """Look at one feed's flat values; ``shape`` is the output's own."""
        if not theirs.size:
            return
        with np.errstate(invalid="ignore"):
            gaps = np.where(mine == theirs, 0.0, np.abs(mine - theirs))
        where = int(gaps.argmax())  # the first NaN, if there is one
        if self.gap < 0 or exceeds(float(gaps[where]), self.gap):
            self.gap, self.feed = float(gaps[where]), feed
            self.index = tuple(int(i) for i in np.unravel_index(where, shape))


@dataclass
class Figures:
    """One output's figures. Means are weighted by elements, so chunking does not change them."""

    is_float: bool
    elements: int = 0
    elements_passed: bool = True
    max_abs: float = 0.0
    max_rel: float = 0.0
    mean_abs: float = 0.0
    mean_rel: float = 0.0
    median_abs: float = 0.0
    cosine: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    scale: dict[str, float] = field(default_factory=lambda: {"max": 0.0, "mean": 0.0, "median": 0.0})
    worst: Worst = field(default_factory=Worst)
    agreement: Agreement = field(default_factory=Agreement)

    def add(self, result: OutputCompareResult, cosine: float, mine: np.ndarray, theirs: np.ndarray) -> None:
        """Add one chunk's figures. NaN anywhere stays visible: it makes the sums NaN, and NaN never passes."""
        count = theirs.size
        if not count:
            return
        self.elements += count
        self.elements_passed &= bool(result)
        self.max_abs = _larger(self.max_abs, result.max_absdiff)
        self.max_rel = _larger(self.max_rel, result.max_reldiff)
        self.mean_abs += result.mean_absdiff * count
        self.mean_rel += result.mean_reldiff * count
        self.median_abs += result.median_absdiff * count
        self.cosine += cosine * count
        magnitude = np.abs(theirs, dtype=np.float64)
        self.scale["max"] = _larger(self.scale["max"], float(magnitude.max()))
        self.scale["mean"] += float(magnitude.sum())
        self.scale["median"] += float(np.median(magnitude)) * count
        with np.errstate(all="ignore"):
            difference = np.where(mine == theirs, 0.0, mine.astype(np.float64) - theirs)
            self.signal += float(np.square(magnitude).sum())
            self.noise += float(np.square(difference).sum())

    def result(self, name: str, tolerance: OutputTolerance) -> OutputParity:
        """The figures over all elements, and the verdict: of floats by distance, of all others by the share equal."""
        count = max(self.elements, 1)
        cosine = self.cosine / count if self.elements else 1.0
        agreement = 1 - self.noise / count  # of what is no float, the noise is the number of differences
        if self.is_float:
            passed = self._close(tolerance, count) and _at_least(cosine, tolerance.min_cosine)
            passed = passed and not math.isnan(self.max_abs)
        else:
            passed = _at_least(agreement, tolerance.min_agreement)
        return OutputParity(
            output=name,
            max_abs=self.max_abs,
            max_rel=self.max_rel,
            mean_abs=self.mean_abs / count,
            mean_rel=self.mean_rel / count,
            median_abs=self.median_abs / count,
            scale=self.scale["mean"] / count,
            cosine=cosine if self.is_float else None,
            agreement=None if self.is_float else agreement,
            snr_db=decibel(self.signal, self.noise),
            worst_feed=self.worst.feed,
            worst_index=self.worst.index,
            top1_agreement=self.agreement.share(self.agreement.top1),
            top5_agreement=self.agreement.share(self.agreement.top5),
            tolerance=tolerance,
            passed=passed,
        )

    def _close(self, tolerance: OutputTolerance, count: int) -> bool:
        errors = {"max": self.max_abs, "mean": self.mean_abs / count, "median": self.median_abs / count}
        if tolerance.stat not in errors:
            return self.elements_passed
        scale = self.scale[tolerance.stat] / (1 if tolerance.stat == "max" else count)
        return errors[tolerance.stat] <= (tolerance.atol or 0.0) + (tolerance.rtol or 0.0) * scale


def _at_least(found: float, least: float | None) -> bool:
    """Whether a least value holds; one that is not set does."""
    return least is None or found >= least


def _larger(a: float, b: float) -> float:
    """The larger one; NaN wins, because NaN must stay visible."""
    return b if exceeds(b, a) else a


def exceeds(a: float, b: float) -> bool:
    """Whether ``a`` is larger than ``b``; NaN is larger than any number."""
    return not math.isnan(b) and not a <= b


def decibel(signal: float, noise: float) -> float:
    """The ratio of two powers in dB; infinite without noise, NaN where either is not finite."""
    if noise == 0:
        return math.inf
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return math.nan
    return 10 * math.log10(signal / noise) if signal else -math.inf
