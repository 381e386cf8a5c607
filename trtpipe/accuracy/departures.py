"""What the input changes in an output: its variation about its own mean over samples, and the error in terms of that.

An offset says nothing of the input. Errors that are small beside an offset of 290, or beside the empty background of a
map, may still be larger than all that the input changes, so this is what they are compared with.

It is a part of ``finish.py``, too (``trtpipe.delivery.finish``), and so is written for Python 3.8 and numpy alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from typing import TypeAlias

    Array: TypeAlias = "np.ndarray[Any, Any]"

#: Means are kept for so many elements of a sample at most; of larger outputs the longest axes are averaged over.
MOST_MEANS = 1 << 20
#: Channels are of another scale where all of them vary by so much more or less than all others.
_SCALES_APART = 8.0
#: Channels that vary by less of their magnitude are constant: sums in another order may change them as much.
_CONSTANT = 2.0**-14


@dataclass
class _Moments:
    """Sums over the samples that count, one for each element of a sample: float64 arrays of one shape, axis 0 of
    length 1.

    Attributes:
        count: values behind each element.
        mean, error: mean of the reference, and of the differences from it.
        square, cross: sums of ``(x - mean)²``, and of ``(x - mean) (d - error)``.
        noise: sum of ``d²``.
        low, high: extremes of the reference.
    """

    count: Array
    mean: Array
    error: Array
    square: Array
    cross: Array
    noise: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, values: Array, differences: Array, counts: Array, axes: tuple[int, ...]) -> _Moments:
        """Those of ``values`` over ``axes``, where ``counts`` is true."""
        count = counts.sum(axes, keepdims=True).astype(np.float64)
        mean, error = (
            np.where(counts, each, 0.0).sum(axes, keepdims=True) / np.maximum(count, 1.0)
            for each in (values, differences)
        )
        apart = np.where(counts, values - mean, 0.0)
        return cls(
            count=count,
            mean=mean,
            error=error,
            square=np.square(apart).sum(axes, keepdims=True),
            cross=(apart * np.where(counts, differences - error, 0.0)).sum(axes, keepdims=True),
            noise=np.square(np.where(counts, differences, 0.0)).sum(axes, keepdims=True),
            low=np.where(counts, values, np.inf).min(axes, keepdims=True),
            high=np.where(counts, values, -np.inf).max(axes, keepdims=True),
        )

    def collapsed(self, axes: tuple[int, ...]) -> _Moments:
        """The same with elements along ``axes`` taken for one (Chan, Golub and LeVeque 1983)."""
        if not axes:
            return self
        count = self.count.sum(axes, keepdims=True)
        mean, error = (
            (self.count * each).sum(axes, keepdims=True) / np.maximum(count, 1.0) for each in (self.mean, self.error)
        )
        apart = self.mean - mean
        return _Moments(
            count=count,
            mean=mean,
            error=error,
            square=(self.square + self.count * np.square(apart)).sum(axes, keepdims=True),
            cross=(self.cross + self.count * apart * (self.error - error)).sum(axes, keepdims=True),
            noise=self.noise.sum(axes, keepdims=True),
            low=self.low.min(axes, keepdims=True),
            high=self.high.max(axes, keepdims=True),
        )

    def joined(self, other: _Moments) -> _Moments:
        """Those of the samples of both, which have one shape."""
        count = self.count + other.count
        apart, gap = other.mean - self.mean, other.error - self.error
        part = other.count / np.maximum(count, 1.0)
        weight = self.count * part
        return _Moments(
            count=count,
            mean=self.mean + apart * part,
            error=self.error + gap * part,
            square=self.square + other.square + np.square(apart) * weight,
            cross=self.cross + other.cross + apart * gap * weight,
            noise=self.noise + other.noise,
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
        )

    def flat(self) -> _Moments:
        """All elements taken for one, in one dimension."""
        whole = self.collapsed(tuple(range(self.mean.ndim)))
        arrays = (
            whole.count, whole.mean, whole.error, whole.square, whole.cross, whole.noise, whole.low, whole.high
        )  # fmt: skip
        return _Moments(*(array.reshape(1) for array in arrays))


@dataclass(frozen=True)
class Channels:
    """Channels of an output whose values vary on one scale, and on another than the rest.

    Attributes:
        axis: that channels are along.
        numbers: theirs.
        power, noise: sums of ``(x - mean)²`` and of ``(y - x)²`` over all of their values.
    """

    axis: int
    numbers: tuple[int, ...]
    power: float
    noise: float


class Departures:
    """The variation of one output about its mean over samples, in one pass.

    Axis 0 counts samples; every element of a sample has a mean of its own. Axes whose length changes from feed to feed
    are averaged over as well, and so are the longest ones of outputs with more than ``MOST_MEANS`` elements: what is
    left is a mean for each channel or position. Of a single sample all elements share one mean: how its elements differ
    is then all that is known of what the input changes.
    """

    def __init__(self) -> None:
        self._moments: _Moments | None = None

    def add(self, found: Array, wanted: Array, counts: Array) -> None:
        """Add samples of shape [samples, ...]; values that are not finite count as 0 in the reference.

        Args:
            counts: booleans of that shape: which values count.
        """
        if not wanted.size:
            return
        values: Array = wanted.astype(np.float64).reshape(wanted.shape or (1,))
        with np.errstate(invalid="ignore", over="ignore"):
            gaps = np.where(found == wanted, 0.0, found.astype(np.float64) - wanted)
        differences: Array = gaps.reshape(values.shape)
        counting: Array = counts.reshape(values.shape)
        values = np.where(np.isfinite(values), values, 0.0)
        before = self._moments
        if before is not None and before.mean.ndim != values.ndim:  # nothing is known of what belongs together
            before = before.flat()
            values, differences, counting = values.ravel(), differences.ravel(), counting.ravel()
        kept: tuple[int, ...] = _kept(values.shape) if before is None else before.mean.shape
        axes = tuple(axis for axis, size in enumerate(values.shape) if axis == 0 or size != kept[axis])
        with np.errstate(invalid="ignore", over="ignore"):
            new = _Moments.of(values, differences, counting, axes)
            if before is not None:
                varying = tuple(axis for axis in axes if axis and before.mean.shape[axis] != 1)
                new = before.collapsed(varying).joined(new)
        self._moments = new

    @property
    def repeated(self) -> bool:
        """Whether an element has values of more than one sample."""
        return self._moments is not None and bool((self._moments.count > 1).any())

    @property
    def power(self) -> float:
        """Sum over all values of ``(x - mean)²``, made up for each mean being that of the same samples."""
        moments = self._judged
        if moments is None:
            return 0.0
        count = moments.count
        return float((moments.square * np.where(count > 1, count / np.maximum(count - 1, 1.0), 0.0)).sum())

    @property
    def largest(self) -> float:
        """The largest distance of a value from its mean."""
        moments = self._judged
        if moments is None:
            return 0.0
        return float(np.maximum(moments.high - moments.mean, moments.mean - moments.low).max(initial=0.0))

    def cosine(self, noise: float) -> float:
        """Cosine similarity of ``x - mean`` and ``y - mean``, with the reference's mean in both.

        Args:
            noise: sum over all values of ``(y - x)²``.
        """
        moments = self._judged
        if moments is None:
            return 1.0
        power, cross = float(moments.square.sum()), float(moments.cross.sum())
        product = power * (power + 2 * cross + noise)
        return (power + cross) / math.sqrt(product) if product > 0 else math.nan

    def scales(self) -> tuple[Channels, ...]:
        """The channels by the scale on which they vary; none where all vary on one.

        An output may join what is measured in pixels with scores, and the largest would hide all errors of the others.
        What lies between 0 and 1 throughout, such as probabilities and maps, is of one scale however little varies.
        Channels are along the second axis, or along the last one of three if that is shorter.
        """
        moments = self._moments
        if moments is None or not self.repeated:
            return ()
        axis = _channel_axis(moments.mean.shape)
        if axis is None or (moments.low.min() >= 0 and moments.high.max() <= 1):
            return ()
        others = tuple(each for each in range(moments.mean.ndim) if each != axis)
        count = moments.count.sum(others)
        power = (moments.square * moments.count / np.maximum(moments.count - 1, 1.0)).sum(others)
        whole = power + (moments.count * np.square(moments.mean)).sum(others)
        numbers = np.flatnonzero((count > 0) & (power > _CONSTANT**2 * whole))
        spread = np.sqrt(power[numbers] / count[numbers])
        order = np.argsort(spread, kind="stable")
        cuts = np.flatnonzero(spread[order][1:] > _SCALES_APART * spread[order][:-1]) + 1
        noise = moments.noise.sum(others)
        groups = [numbers[np.sort(group)] for group in np.split(order, cuts)] if len(cuts) else []
        return tuple(
            Channels(axis, tuple(group.tolist()), float(power[group].sum()), float(noise[group].sum()))
            for group in groups
        )

    @property
    def _judged(self) -> _Moments | None:
        """The moments about the means that errors are compared with."""
        if self._moments is None or self.repeated:
            return self._moments
        with np.errstate(invalid="ignore", over="ignore"):
            return self._moments.flat()


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of channels of means of that shape; ``None`` if there is no more than one channel."""
    if len(shape) < 2:
        return None
    axis = len(shape) - 1 if len(shape) == 3 and 1 < shape[2] < shape[1] else 1
    return axis if shape[axis] > 1 else None


def _kept(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the means: 1 along axis 0, and along the longest axes while there are too many."""
    kept = [1, *shape[1:]]
    while math.prod(kept) > MOST_MEANS:
        kept[kept.index(max(kept))] = 1
    return tuple(kept)
