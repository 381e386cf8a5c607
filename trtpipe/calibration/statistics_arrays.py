"""Statistics as a few long arrays: to store them, to send them between processes, and the reducer that sends them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.statistics import BINS, Statistics, TensorStatistics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.artifact import Feed

#: array -> type. One entry a tensor, but ``bins`` and ``counts``: the filled bins of all tensors, one after the
#: other; ``ends`` says where each tensor's end.
ARRAYS = {
    "count": np.int64,
    "zeros": np.int64,
    "nonfinite": np.int64,
    "minimum": np.float32,
    "maximum": np.float32,
    "ends": np.int64,
    "bins": np.uint16,
    "counts": np.int64,
}
_OF_BINS = ("bins", "counts")

#: The reducer, by the name a runner loads it with.
STATISTICS_REDUCER = "trtpipe.calibration.statistics_arrays:StatisticsReducer"


class StatisticsReducer:
    """A reducer: statistics of the tensors ``names``, inputs of the model among them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._statistics = Statistics.empty(self._names)

    def take(self, feed: Feed, outputs: Feed) -> Feed:
        """Count one run; returns the outputs that are not observed.

        Raises:
            InputError: a tensor holds NaN or infinity; then nothing of the run was counted.
        """
        self._statistics.update({**feed, **outputs})
        return {name: values for name, values in outputs.items() if name not in self._statistics.tensors}

    def result(self) -> Feed:
        """The statistics since the last call, as arrays."""
        arrays = to_arrays(self._statistics)
        self._statistics = Statistics.empty(self._names)
        return arrays


def to_arrays(statistics: Statistics) -> dict[str, np.ndarray]:
    """The statistics of the tensors, in the order of their names; the data summaries are left out."""
    tensors = [statistics.tensors[name] for name in sorted(statistics.tensors)]
    filled = [np.flatnonzero(tensor.filled) for tensor in tensors]
    counts = [tensor.histogram[bins] for tensor, bins in zip(tensors, filled, strict=True)]
    arrays = {
        "count": [tensor.count for tensor in tensors],
        "zeros": [tensor.zeros for tensor in tensors],
        "nonfinite": [tensor.nonfinite for tensor in tensors],
        "minimum": [tensor.minimum for tensor in tensors],
        "maximum": [tensor.maximum for tensor in tensors],
        "ends": np.cumsum([bins.size for bins in filled]),
        "bins": np.concatenate([np.empty(0, int), *filled]),
        "counts": np.concatenate([np.empty(0, int), *counts]),
    }
    return {name: np.asarray(arrays[name], dtype) for name, dtype in ARRAYS.items()}


def add_arrays(statistics: Statistics, arrays: Mapping[str, np.ndarray]) -> None:
    """Add to ``statistics`` the ``to_arrays`` of other statistics of the same tensors."""
    for number, name in enumerate(sorted(statistics.tensors)):
        statistics.tensors[name] = statistics.tensors[name].merge(_tensor(arrays, number))


def from_arrays(names: Sequence[str], arrays: Mapping[str, np.ndarray]) -> Statistics:
    """The statistics of the tensors ``names``, which are sorted, from the arrays of ``ARRAYS``.

    Raises:
        IndexError, ValueError: the arrays contradict each other.
    """
    tensors = {name: _tensor(arrays, number) for number, name in enumerate(names)}
    _require(len(tensors) == len(names))
    _require(all(len(arrays[name]) == len(tensors) for name in ARRAYS if name not in _OF_BINS))
    _require(len(arrays["bins"]) == (int(arrays["ends"][-1]) if tensors else 0))
    return Statistics(tensors)


def _tensor(arrays: Mapping[str, np.ndarray], number: int) -> TensorStatistics:
    """The statistics of one tensor; raises what ``from_arrays`` raises."""
    begin, end = (int(arrays["ends"][number - 1]) if number else 0), int(arrays["ends"][number])
    bins, counts = arrays["bins"][begin:end].astype(np.intp), arrays["counts"][begin:end]
    _require(0 <= begin <= end <= len(arrays["bins"]) == len(arrays["counts"]))
    _require(bool(np.all(np.diff(bins) > 0) and np.all(counts > 0) and np.all(bins < BINS)))
    tensor = TensorStatistics(
        count=int(arrays["count"][number]),
        zeros=int(arrays["zeros"][number]),
        nonfinite=int(arrays["nonfinite"][number]),
        minimum=float(arrays["minimum"][number]),
        maximum=float(arrays["maximum"][number]),
    )
    tensor.histogram[bins] = counts
    _require(tensor.nonfinite >= 0 and tensor.count == sum(counts.tolist()))
    _require(0 <= tensor.zeros <= int(tensor.histogram[0]))
    if tensor.count:
        top = int(np.float32(tensor.largest).view(np.uint32)) >> 16
        _require(tensor.minimum <= tensor.maximum and top >= int(bins[-1]))
    else:
        _require(tensor.minimum == np.inf and tensor.maximum == -np.inf)
    return tensor


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError
