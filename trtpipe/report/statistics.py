"""Calibration statistics in figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.artifact import Record
from trtpipe.calibration.data_summary import DataSummary

if TYPE_CHECKING:
    from pathlib import Path


class TensorSummary(Record):
    """What one tensor held.

    Attributes:
        count: values seen.
        zeros: share of zeros among them, 0 to 1.
        minimum, maximum: the extremes; infinite if nothing was seen.
        nonfinite: how often NaN or infinity came along.
    """

    count: int
    zeros: float
    minimum: float
    maximum: float
    nonfinite: int


class StatisticsSummary(Record):
    """A ``statistics.npz``: the tensors, and the data they were seen on."""

    samples: int
    data_summary: DataSummary | None
    tensors: dict[str, TensorSummary]


def summarize_statistics(path: Path) -> StatisticsSummary:
    """Describe the statistics at ``path``.

    Raises:
        InputError: it is no statistics file.
    """
    from trtpipe.calibration.statistics_file import load_statistics

    found = load_statistics(path)
    tensors = {
        name: TensorSummary(
            count=tensor.count,
            zeros=tensor.zeros / tensor.count if tensor.count else 0.0,
            minimum=tensor.minimum,
            maximum=tensor.maximum,
            nonfinite=tensor.nonfinite,
        )
        for name, tensor in found.tensors.items()
    }
    return StatisticsSummary(samples=found.samples, data_summary=found.data_summary, tensors=tensors)
