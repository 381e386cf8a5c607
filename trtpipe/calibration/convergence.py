"""Convergence of the ranges over the calibration data, and how many samples are needed for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.artifact import Record
from trtpipe.calibration.data_summary import MOST_NEEDED, Convergence
from trtpipe.calibration.methods import percentile_amax
from trtpipe.config.formats import INT8

if TYPE_CHECKING:
    from trtpipe.calibration.statistics import Statistics

#: Ranges are compared at this percentile: the largest magnitude alone would never converge.
PERCENTILE = 99.99
#: A range that changes by no more than this fraction has converged: a step of int8 is 1/127 of it.
CONVERGED = 0.02

_GROWTH = 4 / 3


class RangeSnapshot(Record):
    """The ranges of all tensors after ``samples`` samples, in the order of the statistics."""

    samples: int
    ranges: tuple[float, ...]


class ConvergenceMonitor:
    """Records every tensor's range at sample counts that grow by a third."""

    def __init__(self, snapshots: tuple[RangeSnapshot, ...] = ()) -> None:
        self.snapshots = snapshots

    def due(self, samples: int) -> bool:
        """Whether a snapshot is due after ``samples`` rows."""
        return samples >= (math.ceil(self.snapshots[-1].samples * _GROWTH) if self.snapshots else 1)

    def record(self, statistics: Statistics, samples: int) -> None:
        """Take a snapshot of the ranges after ``samples`` rows."""
        self.snapshots += (RangeSnapshot(samples=samples, ranges=tuple(_ranges(statistics).tolist())),)

    def convergence(self, statistics: Statistics, samples: int) -> Convergence | None:
        """How much the ranges changed over the last part of ``samples`` rows; ``None`` for too few samples to say."""
        before = [snapshot for snapshot in self.snapshots if snapshot.samples <= 0.75 * samples]
        names = list(statistics.tensors)
        if not before or not names:
            return None
        final = _ranges(statistics)
        whole = np.where(final > 0, final, 1.0)  # a tensor that is 0 to the end does not change
        changes = [(each.samples, np.abs(final - np.array(each.ranges)) / whole) for each in before]
        since, last = changes[-1]
        worst = int(np.argmax(last))
        change = float(last[worst])
        if change > CONVERGED:
            needed = math.ceil(samples * min((change / CONVERGED) ** 2, MOST_NEEDED))
        else:
            moving = max((count for count, each in changes if each.max() > CONVERGED), default=0)
            needed = next((count for count, _ in changes if count > moving), since)
        return Convergence(since=since, change=change, tensor=names[worst], samples_needed=needed)


def _ranges(statistics: Statistics) -> np.ndarray:
    tensors = statistics.tensors.values()
    return np.array([percentile_amax(tensor, PERCENTILE, INT8) if tensor.count else 0.0 for tensor in tensors])
