"""Statistics of tensors as a few long arrays: to store them, and to hand them from one process to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.statistics import BINS, Statistics, TensorStatistics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: array -> type. One entry a tensor, but ``bins`` and ``counts``: the filled bins of all tensors, one after the
#: other; ``ends`` says where each tensor's end.
COLUMNS = {
    "count": np.int64,
    "zeros": np.int64,
    "nonfinite": np.int64,
    "minimum": np.float32,
    "maximum": np.float32,
    "ends": np.int64,
    "bins": np.uint16,
    "counts": np.int64,
}


def to_columns(statistics: Statistics) -> dict[str, np.ndarray]:
    """What was found in the tensors, in the order of their names; the accounts are left out."""
    tensors = [statistics.tensors[name] for name in sorted(statistics.tensors)]
    filled = [np.flatnonzero(tensor.filled) for tensor in tensors]
    counts = [tensor.histogram[bins] for tensor, bins in zip(tensors, filled, strict=True)]
    columns = {
        "count": [tensor.count for tensor in tensors],
        "zeros": [tensor.zeros for tensor in tensors],
        "nonfinite": [tensor.nonfinite for tensor in tensors],
        "minimum": [tensor.minimum for tensor in tensors],
        "maximum": [tensor.maximum for tensor in tensors],
        "ends": np.cumsum([bins.size for bins in filled]),
        "bins": np.concatenate([np.empty(0, int), *filled]),
        "counts": np.concatenate([np.empty(0, int), *counts]),
    }
    return {name: np.asarray(columns[name], dtype) for name, dtype in COLUMNS.items()}


def add_columns(statistics: Statistics, columns: Mapping[str, np.ndarray]) -> None:
    """Add to ``statistics`` what ``to_columns`` made of others of the same tensors."""
    begin = 0
    for number, name in enumerate(sorted(statistics.tensors)):
        tensor, end = statistics.tensors[name], int(columns["ends"][number])
        tensor.count += int(columns["count"][number])
        tensor.zeros += int(columns["zeros"][number])
        tensor.nonfinite += int(columns["nonfinite"][number])
        tensor.minimum = min(tensor.minimum, float(columns["minimum"][number]))
        tensor.maximum = max(tensor.maximum, float(columns["maximum"][number]))
        tensor.histogram[columns["bins"][begin:end]] += columns["counts"][begin:end]
        begin = end


def from_columns(names: Sequence[str], columns: Mapping[str, np.ndarray]) -> Statistics:
    """The statistics of the tensors ``names``, which are sorted, from the arrays of ``COLUMNS``.

    Raises:
        IndexError, ValueError: they cannot be those of any tensors.
    """
    tensors = {name: _tensor(columns, number) for number, name in enumerate(names)}
    _require(len(tensors) == len(names) and _lengths_agree(columns, len(tensors)))
    return Statistics(tensors)


def _tensor(columns: Mapping[str, np.ndarray], number: int) -> TensorStatistics:
    """The statistics of one tensor.

    Raises:
        IndexError, ValueError: they cannot be those of any tensor.
    """
    begin, end = (int(columns["ends"][number - 1]) if number else 0), int(columns["ends"][number])
    bins, counts = columns["bins"][begin:end].astype(np.intp), columns["counts"][begin:end]
    _require(0 <= begin <= end <= len(columns["bins"]) == len(columns["counts"]))
    _require(bool(np.all(np.diff(bins) > 0) and np.all(counts > 0) and np.all(bins < BINS)))
    tensor = TensorStatistics(
        count=int(columns["count"][number]),
        zeros=int(columns["zeros"][number]),
        nonfinite=int(columns["nonfinite"][number]),
        minimum=float(columns["minimum"][number]),
        maximum=float(columns["maximum"][number]),
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


def _lengths_agree(columns: Mapping[str, np.ndarray], tensors: int) -> bool:
    used = int(columns["ends"][-1]) if tensors else 0
    each = ("count", "zeros", "nonfinite", "minimum", "maximum", "ends")
    return all(len(columns[name]) == tensors for name in each) and len(columns["bins"]) == used


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError
