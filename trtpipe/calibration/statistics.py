"""Statistics of a model's tensors: exact extremes and a histogram of magnitudes, in constant memory.

The histogram's grid is a part of the float32 format itself: a value's bin is its exponent and the leading 7 bits of
its mantissa. So it needs no range in advance, a bin is never wider than 2**-7 (0.8 %) of its lower edge, and counts
of shards add up: the result is bit-exact for every batch size, order and way of sharding. (Below 2**-126, where float32
itself gets coarser, bins are 2**-133 wide.)

The largest feature maps hold far more values than a histogram needs, and neighbors in them are similar. Of maps of
100,000 values a sample and more only every n-th row is counted (see ``counted_rows``); extremes are always those of all
values. The first row differs between channels and samples: a fixed one would count the borders, where padding shows,
too often or never. It is computed from the sample's own values, so the result does not depend on batch and order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.data_summary import DataSummary, combined
from trtpipe.calibration.sample_outputs import SampleOutputs
from trtpipe.errors import InputError, InternalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Bins of finite magnitudes: bin ``b`` starts at the float32 whose bits are ``b << 16``.
BINS = 0x7F80


#: Values counted at a time: their bits and bins stay in the L2 cache.
_CHUNK = 1 << 15
#: Values of one sample's feature map that are enough, and the largest step from one counted row to the next.
_ENOUGH, _LARGEST_STEP = 50_000, 16
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_HALF = np.uint32(16)


@dataclass(eq=False)
class TensorStatistics:
    """Statistics of one tensor.

    Attributes:
        count: finite values counted.
        zeros: exact zeros among them.
        nonfinite: NaNs and infinities seen; they are in none of the other numbers.
        minimum, maximum: exact extremes of all values seen, as float32 values; +inf and -inf before the first value.
        histogram: int64[BINS], counts of the magnitudes \\|x\\| by their bin.
    """

    count: int = 0
    zeros: int = 0
    nonfinite: int = 0
    minimum: float = np.inf
    maximum: float = -np.inf
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))

    @property
    def largest(self) -> float:
        """The exact largest magnitude; 0 before the first value."""
        return max(self.maximum, -self.minimum) if self.count else 0.0

    @property
    def smallest(self) -> float:
        """A lower bound of all magnitudes: the smallest one if all values have one sign, otherwise 0."""
        return max(self.minimum, -self.maximum, 0.0) if self.count else 0.0

    @property
    def filled(self) -> np.ndarray:
        """The histogram up to the bin of the largest magnitude; the rest is 0."""
        return self.histogram[: (int(np.float32(self.largest).view(np.uint32)) >> 16) + 1]

    def update(self, values: np.ndarray) -> None:
        """Add an array of any shape and float type; temporaries stay under a megabyte if it is contiguous float32."""
        self._add(_Values(values))

    def merge(self, other: TensorStatistics) -> TensorStatistics:
        """The statistics of both together; exact, associative and commutative."""
        return TensorStatistics(
            count=self.count + other.count,
            zeros=self.zeros + other.zeros,
            nonfinite=self.nonfinite + other.nonfinite,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            histogram=self.histogram + other.histogram,
        )

    def _add(self, values: _Values) -> None:
        if values.nonfinite:
            self.nonfinite += values.nonfinite
            values = _Values(values.flat[np.isfinite(values.flat)])
        if values.flat.size:
            self.minimum = min(self.minimum, values.low)
            self.maximum = max(self.maximum, values.high)
            self._count(values, 1)

    def _remove(self, values: _Values, minimum: float, maximum: float) -> None:
        """Undo the addition of the finite ``values``, before which the extremes were these."""
        self.minimum, self.maximum = minimum, maximum
        self._count(values, -1)

    def _count(self, values: _Values, each: int) -> None:
        bins = np.empty(_CHUNK, np.intp)
        for magnitudes in values.counted():
            number = bins[: magnitudes.size]
            self.count += each * magnitudes.size
            zeros = magnitudes.size - int(np.count_nonzero(magnitudes))  # much faster than comparing floats
            self.zeros += each * zeros
            np.right_shift(magnitudes, _HALF, out=magnitudes)
            np.copyto(number, magnitudes)
            np.add.at(self.histogram, number, each)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TensorStatistics)
            and (self.count, self.zeros, self.nonfinite) == (other.count, other.zeros, other.nonfinite)
            and (self.minimum, self.maximum) == (other.minimum, other.maximum)
            and np.array_equal(self.histogram, other.histogram)
        )

    __hash__ = None  # type: ignore[assignment]  # mutable


@dataclass(frozen=True, eq=False)
class CumulativeHistogram:
    """Cumulative sums over the nonzero magnitudes of a tensor: of their number, and of their moments.

    Inside one bin (never wider than 0.8 % of its magnitude) values count as evenly distributed. All sums are computed
    from integer counts in one fixed order, so equal statistics give equal numbers.

    Attributes:
        magnitudes: float64[2 * filled bins], ascending: lower and upper edge of every filled bin, clipped to the
            smallest and the largest magnitude seen.
        moments: float64[3, 2 * filled bins]: sums of 1, x and x**2 over all magnitudes x up to that edge.
    """

    magnitudes: np.ndarray
    moments: np.ndarray

    @classmethod
    def of(cls, tensor: TensorStatistics) -> CumulativeHistogram:
        """That of a tensor's magnitudes, zeros left out."""
        counts = tensor.histogram.copy()
        counts[0] -= tensor.zeros
        filled = np.flatnonzero(counts)
        bits = filled.astype(np.uint32) << _HALF
        edges = np.stack([bits, bits + np.uint32(1 << 16)]).view(np.float32).astype(np.float64)
        low, high = np.clip(edges, tensor.smallest, tensor.largest)
        mass = counts[filled].astype(np.float64)
        middle = (low + high) / 2
        each = np.stack([mass, mass * middle, mass * (middle**2 + (high - low) ** 2 / 12)])
        sums = np.concatenate([np.zeros((3, 1)), np.cumsum(each, axis=1)], axis=1)
        return cls(
            np.stack([low, high], axis=1).reshape(-1), np.stack([sums[:, :-1], sums[:, 1:]], axis=2).reshape(3, -1)
        )

    @property
    def totals(self) -> np.ndarray:
        """float64[3]: the sums over all magnitudes."""
        return self.moments[:, -1] if self.magnitudes.size else np.zeros(3)

    @property
    def median(self) -> float:
        """The median magnitude; 0 if there are none."""
        if not self.magnitudes.size:
            return 0.0
        return float(np.interp(self.totals[0] / 2, self.moments[0], self.magnitudes))

    def below(self, magnitudes: np.ndarray, moment: int) -> np.ndarray:
        """The sum of x**moment over all magnitudes x up to each of ``magnitudes`` (float64, any shape)."""
        if not self.magnitudes.size:
            return np.zeros(magnitudes.shape)
        found: np.ndarray = np.interp(magnitudes, self.magnitudes, self.moments[moment], left=0.0)
        return found


def counted_rows(shape: tuple[int, ...]) -> int:
    """The step from one counted row to the next along axis 2 of an array [batch, channel, row, ...]; 1 for all rows.

    The largest one, up to 16, that leaves 50,000 values a sample: a tail of 1 in 10,000 is then 5 values of each
    sample. Arrays with fewer axes are counted in full: neighbors in them are not similar.
    """
    if len(shape) < 4:
        return 1
    return max(1, min(math.prod(shape[1:]) // _ENOUGH, _LARGEST_STEP, shape[2]))


def _cut(piece: np.ndarray) -> Iterator[np.ndarray]:
    """Views of an array, each of one chunk at most."""
    if piece.size <= _CHUNK:
        yield piece
    elif len(piece) == 1:
        yield from _cut(piece[0])
    else:
        most = max(_CHUNK // piece[0].size, 1)
        for start in range(0, len(piece), most):
            yield from _cut(piece[start : start + most])


class _Values:
    """An array as flat float32, with its extremes (NaN if it holds one)."""

    def __init__(self, values: np.ndarray) -> None:
        with np.errstate(over="ignore"):
            self._whole = np.ascontiguousarray(values, dtype=np.float32)
        self.flat = self._whole.reshape(-1)
        self._step = counted_rows(self._whole.shape)
        parts = 1 if self._step == 1 else len(self._whole)
        samples = self.flat.reshape(parts, self.flat.size // max(parts, 1))
        with np.errstate(invalid="ignore"):  # 0.0 is added because -0.0 + 0.0 is 0.0: numpy finds either of the two
            self._lows = samples.min(axis=1, initial=np.inf) + np.float32(0)
            self._highs = samples.max(axis=1, initial=-np.inf) + np.float32(0)
            self.low, self.high = float(self._lows.min(initial=np.inf)), float(self._highs.max(initial=-np.inf))

    def counted(self) -> Iterator[np.ndarray]:
        """The bits of the magnitudes to count, uint32, in chunks; each chunk is overwritten by the next."""
        buffer = np.empty(_CHUNK, np.uint32)
        filled = 0
        for piece in self._pieces():
            if filled + piece.size > _CHUNK:
                yield buffer[:filled]
                filled = 0
            place = buffer[filled : filled + piece.size]
            np.bitwise_and(piece, _MAGNITUDE, out=place.reshape(piece.shape))
            filled += piece.size
        yield buffer[:filled]

    def _pieces(self) -> Iterator[np.ndarray]:
        """The bits of the values to count, uint32, in pieces of one chunk at most."""
        if self._step == 1:
            yield from _cut(self.flat.view(np.uint32))
            return
        starts = (self._lows.view(np.uint32) >> _HALF) + (self._highs.view(np.uint32) >> _HALF)
        for sample, start in zip(self._whole.view(np.uint32), starts.tolist(), strict=True):
            for channel in range(min(self._step, sample.shape[0])):  # each begins one row after the one before
                yield from _cut(sample[channel :: self._step, (start + channel) % self._step :: self._step])

    @property
    def nonfinite(self) -> int:
        """NaNs and infinities."""
        if np.isfinite(self.low) and np.isfinite(self.high):
            return 0
        return self.flat.size - int(np.count_nonzero(np.isfinite(self.flat)))


@dataclass
class Statistics:
    """Statistics of a model's tensors, and a summary of the data they are based on.

    Attributes:
        tensors: tensor name -> its statistics.
        data_summaries: one for each data set, in an order that does not depend on the order of merging.
        outputs: what the model answered to samples, as far as it is kept.
    """

    tensors: dict[str, TensorStatistics]
    data_summaries: tuple[DataSummary, ...] = ()
    outputs: SampleOutputs = field(default_factory=SampleOutputs)

    @classmethod
    def empty(cls, names: Iterable[str]) -> Statistics:
        """Statistics of the tensors ``names`` before the first value."""
        return cls({name: TensorStatistics() for name in sorted(names)})

    @property
    def data_summary(self) -> DataSummary | None:
        """Of all data together; ``None`` if it is unknown."""
        return combined(self.data_summaries)

    @property
    def samples(self) -> int:
        """Samples (rows) the statistics are based on."""
        return sum(summary.samples for summary in self.data_summaries)

    def update(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Add the values of all tensors of one run, or of none of them; other tensors in ``outputs`` are ignored.

        Raises:
            InputError: one holds NaN or infinity.
        """
        if missing := [name for name in self.tensors if name not in outputs]:
            raise InternalError(f"the run gave no value for the observed tensor {missing[0]!r}")
        added: list[tuple[TensorStatistics, _Values, float, float]] = []
        for name, tensor in self.tensors.items():  # one by one: what was just read is still in the cache
            values = _Values(outputs[name])
            if values.nonfinite:
                for each in added:
                    each[0]._remove(*each[1:])
                raise InputError(
                    f"tensor {name!r} became NaN or infinite ({values.nonfinite} values)",
                    "check this sample and the data's normalization; the model overflows in float32 on it",
                )
            added.append((tensor, values, tensor.minimum, tensor.maximum))
            tensor._add(values)

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both taken together; exact, associative and commutative.

        Raises:
            InputError: they are of different models: the tensors differ.
        """
        if different := sorted(self.tensors.keys() ^ other.tensors.keys()):
            raise InputError(
                f"statistics of different models cannot be merged: tensor {different[0]!r} is in one of them only",
                "merge statistics that were collected on the same model",
            )
        both = (*self.data_summaries, *other.data_summaries)
        summaries = sorted(both, key=lambda summary: (summary.digest, summary.to_json()))
        tensors = {name: tensor.merge(other.tensors[name]) for name, tensor in self.tensors.items()}
        return Statistics(tensors, tuple(summaries), self.outputs.merge(other.outputs))
