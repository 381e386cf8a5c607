"""What a model's tensors were seen to hold: exact extremes and a histogram of magnitudes, in constant memory.

The histogram's grid is a part of the float32 format itself: a value's bin is its exponent and the leading 7 bits of
its mantissa. So it needs no range in advance, a bin is never wider than 2**-7 (0.8 %) of its lower edge, and counts
from anywhere simply add up: the result is the same to the last bit for every batch size, order and way of sharding.
(Below 2**-126, where float32 itself gets coarser, bins are 2**-133 wide.)

The largest feature maps hold far more values than a histogram needs, and neighbours in them are alike. Of maps of
200,000 values a sample and more only every second, fourth or eighth row is counted (see ``counted_rows``); extremes are
always those of all values. Which rows those are depends on the map's own size alone, so the result still does not
depend on batch and order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.account import DataAccount, combined
from trtpipe.errors import InputError, InternalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Bins of finite magnitudes: bin ``b`` starts at the float32 whose bits are ``b << 16``.
BINS = 0x7F80

#: Upper bound of a bin's width relative to its lower edge, for magnitudes from 2**-126.
RESOLUTION = 2.0**-7

#: Values counted at a time: they and their bins stay in the processor's second cache.
_CHUNK = 1 << 15
#: Values of one sample's feature map that are enough, and the largest step from one counted row to the next.
_ENOUGH, _LARGEST_STEP = 100_000, 8
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_HALF = np.uint32(16)


class NonFiniteTensor(InputError):
    """A tensor became NaN or infinite.

    Attributes:
        tensor: its name.
        values: how many.
    """

    def __init__(self, tensor: str, values: int) -> None:
        super().__init__(
            f"tensor {tensor!r} became NaN or infinite ({values} values)",
            "check the data's normalisation and this sample; the model itself overflows in float32 on it",
        )
        self.tensor = tensor
        self.values = values


@dataclass(eq=False)
class TensorStatistics:
    """What one tensor was seen to hold.

    Attributes:
        count: finite values counted.
        zeros: how many of them were exactly 0.
        nonfinite: NaNs and infinities seen; they enter nothing else.
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

    def update(self, values: np.ndarray) -> None:
        """Take in an array of any shape and float type; temporaries stay under a megabyte if it is
        contiguous float32, otherwise it is converted first.
        """
        self._add(_Values(values))

    def merge(self, other: TensorStatistics) -> TensorStatistics:
        """The statistics of both taken together; exact, associative and commutative."""
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
        if not values.flat.size:
            return
        # Adding 0.0 turns -0.0 into 0.0: which of the two numpy returns depends on their order.
        self.minimum = min(self.minimum, values.low + 0.0)
        self.maximum = max(self.maximum, values.high + 0.0)
        counted = values.counted()
        self.count += counted.size
        size = min(counted.size, _CHUNK)
        bits, bins = np.empty(size, np.uint32), np.empty(size, np.intp)
        for start in range(0, counted.size, _CHUNK):
            chunk = counted[start : start + _CHUNK]
            self.zeros += int(np.count_nonzero(chunk == 0))
            top, number = bits[: chunk.size], bins[: chunk.size]
            np.bitwise_and(chunk.view(np.uint32), _MAGNITUDE, out=top)
            np.right_shift(top, _HALF, out=top)
            np.copyto(number, top)
            np.add.at(self.histogram, number, 1)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TensorStatistics)
            and (self.count, self.zeros, self.nonfinite) == (other.count, other.zeros, other.nonfinite)
            and (self.minimum, self.maximum) == (other.minimum, other.maximum)
            and np.array_equal(self.histogram, other.histogram)
        )

    __hash__ = None  # type: ignore[assignment]  # mutable


def counted_rows(shape: tuple[int, ...]) -> int:
    """The step from one counted row to the next along axis 2 of an array [batch, channel, row, ...]; 1 for all rows.

    The largest power of two, up to 8, that leaves 100,000 values a sample: a tail of 1 in 10,000 is then 10 values of
    each sample. Arrays with fewer axes are counted in full: what lies side by side in them is not alike.
    """
    values = math.prod(shape[1:]) if len(shape) > 3 else 0
    step = 1
    while step < _LARGEST_STEP and values >= 2 * step * _ENOUGH and shape[2] > step:
        step *= 2
    return step


class _Values:
    """An array as float32 in a row, with its extremes (NaN if it holds one)."""

    def __init__(self, values: np.ndarray) -> None:
        with np.errstate(over="ignore"):
            whole = np.ascontiguousarray(values, dtype=np.float32)
        self._whole = whole
        self.flat = whole.reshape(-1)
        with np.errstate(invalid="ignore"):
            self.low = float(self.flat.min()) if self.flat.size else 0.0
            self.high = float(self.flat.max()) if self.flat.size else 0.0

    def counted(self) -> np.ndarray:
        """The values for the histogram, in a row."""
        step = counted_rows(self._whole.shape)
        return self.flat if step == 1 else np.ascontiguousarray(self._whole[:, :, ::step]).reshape(-1)

    @property
    def nonfinite(self) -> int:
        """NaNs and infinities."""
        if np.isfinite(self.low) and np.isfinite(self.high):
            return 0
        return self.flat.size - int(np.count_nonzero(np.isfinite(self.flat)))


@dataclass
class Statistics:
    """Statistics of a model's tensors, and of the data they were found on.

    Attributes:
        tensors: tensor name -> what it was seen to hold.
        accounts: one for each data set that went in, in an order that does not depend on the order of merging.
    """

    tensors: dict[str, TensorStatistics]
    accounts: tuple[DataAccount, ...] = ()

    @classmethod
    def empty(cls, names: Iterable[str]) -> Statistics:
        """Statistics of the tensors ``names`` before the first value."""
        return cls({name: TensorStatistics() for name in sorted(names)})

    @property
    def account(self) -> DataAccount | None:
        """All data together; ``None`` if nothing is known of it."""
        return combined(self.accounts)

    @property
    def samples(self) -> int:
        """Samples (rows) the statistics rest on."""
        return sum(account.samples for account in self.accounts)

    @property
    def feeds(self) -> int:
        """Runs of the model the statistics rest on."""
        return sum(account.feeds for account in self.accounts)

    def update(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Take in the values of all tensors from one run, or none of them; other tensors in ``outputs`` are ignored.

        Raises:
            NonFiniteTensor: one holds NaN or infinity.
        """
        if missing := [name for name in self.tensors if name not in outputs]:
            raise InternalError(f"the run gave no value for the observed tensor {missing[0]!r}")
        found = {name: _Values(outputs[name]) for name in self.tensors}
        for name, values in found.items():
            if values.nonfinite:
                raise NonFiniteTensor(name, values.nonfinite)
        for name, values in found.items():
            self.tensors[name]._add(values)

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both taken together; exact, associative and commutative.

        Raises:
            InputError: they are of different tensors, so of different models.
        """
        if different := sorted(self.tensors.keys() ^ other.tensors.keys()):
            raise InputError(
                f"statistics of different models cannot be merged: tensor {different[0]!r} is in one of them only",
                "merge statistics that were collected on the same model",
            )
        accounts = sorted((*self.accounts, *other.accounts), key=lambda account: (account.digest, account.to_json()))
        tensors = {name: tensor.merge(other.tensors[name]) for name, tensor in self.tensors.items()}
        return Statistics(tensors, tuple(accounts))
