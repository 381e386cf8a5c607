"""What the input changes in an output: its variation about its own mean over samples, and the error in terms of that.

An offset says nothing of the input. Errors that are small beside an offset of 290, or beside the empty background of a
map, may still be larger than all that the input changes, so this is what they are compared with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: Means are kept for so many elements of a sample at most; of larger outputs the longest axes are averaged over.
MOST_MEANS = 1 << 20
#: Rounding of float32 and of sums in another order, relative to a value: never taken for an error.
ROUNDING = 2.0**-22


@dataclass
class _Moments:
    """Sums over samples, one for each element of a sample: float64 arrays of one shape, axis 0 of length 1.

    Attributes:
        count: values behind each element.
        mean, error: mean of the reference, and of the differences from it.
        square, cross: sums of ``(x - mean)²``, and of ``(x - mean) (d - error)``.
        low, high: extremes of the reference.
    """

    count: float
    mean: np.ndarray
    error: np.ndarray
    square: np.ndarray
    cross: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, differences: np.ndarray, axes: tuple[int, ...]) -> _Moments:
        """Those of ``values`` over ``axes``."""
        mean, error = values.mean(axes, keepdims=True), differences.mean(axes, keepdims=True)
        apart = values - mean
        return cls(
            count=math.prod(values.shape[axis] for axis in axes),
            mean=mean,
            error=error,
            square=np.square(apart).sum(axes, keepdims=True),
            cross=(apart * (differences - error)).sum(axes, keepdims=True),
            low=values.min(axes, keepdims=True),
            high=values.max(axes, keepdims=True),
        )

    def collapsed(self, axes: tuple[int, ...]) -> _Moments:
        """The same with elements along ``axes`` taken for one (Chan, Golub and LeVeque 1983)."""
        if not axes:
            return self
        mean, error = self.mean.mean(axes, keepdims=True), self.error.mean(axes, keepdims=True)
        apart = self.mean - mean
        return _Moments(
            count=self.count * math.prod(self.mean.shape[axis] for axis in axes),
            mean=mean,
            error=error,
            square=(self.square + self.count * np.square(apart)).sum(axes, keepdims=True),
            cross=(self.cross + self.count * apart * (self.error - error)).sum(axes, keepdims=True),
            low=self.low.min(axes, keepdims=True),
            high=self.high.max(axes, keepdims=True),
        )

    def joined(self, other: _Moments) -> _Moments:
        """Those of the samples of both, which have one shape."""
        count = self.count + other.count
        apart, gap = other.mean - self.mean, other.error - self.error
        weight = self.count * other.count / count
        return _Moments(
            count=count,
            mean=self.mean + apart * (other.count / count),
            error=self.error + gap * (other.count / count),
            square=self.square + other.square + np.square(apart) * weight,
            cross=self.cross + other.cross + apart * gap * weight,
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
        )


class Departures:
    """The variation of one output about its mean over samples, in one pass.

    Axis 0 counts samples; every element of a sample has a mean of its own. Axes whose length changes from feed to feed
    are averaged over as well, and so are the longest ones of outputs with more than ``MOST_MEANS`` elements: what is
    left is a mean for each channel or position.
    """

    def __init__(self) -> None:
        self._moments: _Moments | None = None

    def add(self, found: np.ndarray, wanted: np.ndarray) -> None:
        """Add samples of shape [samples, ...]; values that are not finite count as 0 in the reference."""
        if not wanted.size:
            return
        values: np.ndarray = wanted.astype(np.float64).reshape(wanted.shape or (1,))
        with np.errstate(invalid="ignore", over="ignore"):
            gaps = np.where(found == wanted, 0.0, found.astype(np.float64) - wanted)
        differences: np.ndarray = gaps.reshape(values.shape)
        values = np.where(np.isfinite(values), values, 0.0)
        before = self._moments
        if before is not None and before.mean.ndim != values.ndim:  # nothing is known of what belongs together
            before = before.collapsed(tuple(range(before.mean.ndim)))
            before = _reshaped(before, (1,))
            values, differences = values.ravel(), differences.ravel()
        kept: tuple[int, ...] = _kept(values.shape) if before is None else before.mean.shape
        axes = tuple(axis for axis, size in enumerate(values.shape) if axis == 0 or size != kept[axis])
        with np.errstate(invalid="ignore", over="ignore"):
            new = _Moments.of(values, differences, axes)
            if before is not None:
                varying = tuple(axis for axis in axes if axis and before.mean.shape[axis] != 1)
                new = before.collapsed(varying).joined(new)
        self._moments = new

    @property
    def samples(self) -> float:
        """Values behind each mean."""
        return 0.0 if self._moments is None else self._moments.count

    @property
    def power(self) -> float:
        """Sum over all values of ``(x - mean)²``, made up for the mean being that of the same samples.

        0 for a single sample.
        """
        if self._moments is None or self._moments.count < 2:
            return 0.0
        return self._sum * self._moments.count / (self._moments.count - 1)

    @property
    def largest(self) -> float:
        """The largest distance of a value from its mean."""
        if self._moments is None:
            return 0.0
        moments = self._moments
        return float(np.maximum(moments.high - moments.mean, moments.mean - moments.low).max())

    def cosine(self, noise: float) -> float:
        """Cosine similarity of ``x - mean`` and ``y - mean``, with the reference's mean in both.

        Args:
            noise: sum over all values of ``(y - x)²``.
        """
        if self._moments is None:
            return 1.0
        shared = self._sum + float(self._moments.cross.sum())
        other = shared + float(self._moments.cross.sum()) + noise
        product = self._sum * other
        return shared / math.sqrt(product) if product > 0 else math.nan

    @property
    def _sum(self) -> float:
        return 0.0 if self._moments is None else float(self._moments.square.sum())


def _kept(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the means: 1 along axis 0, and along the longest axes while there are too many."""
    kept = [1, *shape[1:]]
    while math.prod(kept) > MOST_MEANS:
        kept[kept.index(max(kept))] = 1
    return tuple(kept)


def _reshaped(moments: _Moments, shape: tuple[int, ...]) -> _Moments:
    arrays = (moments.mean, moments.error, moments.square, moments.cross, moments.low, moments.high)
    return _Moments(moments.count, *(array.reshape(shape) for array in arrays))
