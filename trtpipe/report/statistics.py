"""Summary of calibration statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.artifact import Record
from trtpipe.calibration.data_summary import DataSummary

if TYPE_CHECKING:
    from pathlib import Path


class TensorSummary(Record):
    """Statistics of one tensor.

    Attributes:
        count: number of values.
        zeros: share of zeros among them, 0 to 1.
        minimum, maximum: infinite if there is no value.
        nonfinite: number of NaN and infinite values.
    """

    count: int
    zeros: float
    minimum: float
    maximum: float
    nonfinite: int


class StatisticsSummary(Record):
    """A ``statistics.npz``: its tensors, and the data they were collected on."""

    samples: int
    data_summary: DataSummary | None
    tensors: dict[str, TensorSummary]


def summarize_statistics(path: Path) -> StatisticsSummary:
    """Describe the statistics at ``path``.

    Raises:
        InputError: ``path`` is not a statistics file.
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
