"""How the ranges move as the data comes in, and so how many samples would do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.artifact import Record
from trtpipe.calibration.data_summary import Settling
from trtpipe.calibration.methods import clipped
from trtpipe.config.formats import INT8

if TYPE_CHECKING:
    from trtpipe.calibration.statistics import Statistics

#: Ranges are compared at this percentile: the largest magnitude alone would never settle.
PERCENTILE = 99.99
#: A range that moves by no more than this share has settled: a step of int8 is 1/127 of it.
SETTLED = 0.02

_GROWTH = 4 / 3


class Point(Record):
    """The ranges of all tensors after so many samples."""

    samples: int
    ranges: tuple[float, ...]


class Course:
    """Remembers every tensor's range at sample counts that grow by a third."""

    def __init__(self) -> None:
        self._points: list[tuple[int, np.ndarray]] = []
        self._next = 1

    def save(self) -> tuple[Point, ...]:
        """The notes taken so far."""
        return tuple(Point(samples=samples, ranges=tuple(ranges.tolist())) for samples, ranges in self._points)

    def restore(self, points: tuple[Point, ...]) -> None:
        """Go on from earlier notes."""
        self._points = [(point.samples, np.array(point.ranges)) for point in points]
        self._next = math.ceil(points[-1].samples * _GROWTH) if points else 1

    def due(self, samples: int) -> bool:
        """Whether it is time for a note: ``samples`` rows have come in so far."""
        return samples >= self._next

    def note(self, statistics: Statistics, samples: int) -> None:
        """Take a note of what is known after ``samples`` rows."""
        self._points.append((samples, _ranges(statistics)))
        self._next = math.ceil(samples * _GROWTH)

    def settling(self, statistics: Statistics, samples: int) -> Settling | None:
        """What the end looks like from here; ``None`` for too little data to say."""
        before = [point for point in self._points if point[0] <= 0.75 * samples]
        names = list(statistics.tensors)
        if not before or not names:
            return None
        final = _ranges(statistics)
        moves = [(count, _moves(ranges, final)) for count, ranges in before]
        since, last = moves[-1]
        worst = int(np.argmax(last))
        moved = float(last[worst])
        unsettled = [count for count, move in moves if move.max() > SETTLED]
        if moved > SETTLED:
            enough = math.ceil(samples * min((moved / SETTLED) ** 2, 100.0))
        else:
            enough = next((count for count, _ in moves if not unsettled or count > unsettled[-1]), since)
        return Settling(since=since, moved=moved, tensor=names[worst], enough=enough)


def _ranges(statistics: Statistics) -> np.ndarray:
    return np.array(
        [clipped(tensor, PERCENTILE, INT8) if tensor.count else 0.0 for tensor in statistics.tensors.values()]
    )


def _moves(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Changes relative to the end; none for a tensor that is 0 to the end."""
    moves: np.ndarray = np.abs(after - before) / np.where(after > 0, after, 1.0)
    return moves
