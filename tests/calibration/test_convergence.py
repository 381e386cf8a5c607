from __future__ import annotations

import numpy as np
import pytest

from trtpipe.calibration.convergence import Course
from trtpipe.calibration.data_summary import Settling
from trtpipe.calibration.statistics import Statistics


def followed(rows: np.ndarray, **others: np.ndarray) -> Settling | None:
    statistics, course = Statistics.empty(["t", *others]), Course()
    for index, row in enumerate(rows):
        statistics.update({"t": row, **{name: values[index] for name, values in others.items()}})
        if course.due(index + 1):
            course.note(statistics, index + 1)
    return course.settling(statistics, len(rows))


def test_what_has_settled_says_since_when() -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (64, 1000))
    rows[:10] *= 0.5
    found = followed(rows, constant=np.ones((64, 3)), nothing=np.zeros((64, 3)))
    assert found is not None
    assert found.moved < 0.01
    assert 36 <= found.since <= 48
    assert 10 < found.enough <= 20


def test_what_still_moves_names_the_tensor_and_asks_for_more() -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (64, 1000))
    grows = rows * np.linspace(1, 2, 64)[:, np.newaxis]
    found = followed(rows, grows=grows)
    assert found is not None
    assert found.tensor == "grows"
    assert found.moved == pytest.approx(1 - (1 + found.since / 63) / 2, abs=0.05)
    assert found.enough > 64


def test_too_little_to_say() -> None:
    assert followed(np.ones((1, 5))) is None
    assert Course().settling(Statistics.empty([]), 0) is None
