from __future__ import annotations

import numpy as np
import pytest

from trtpipe.calibration.convergence import ConvergenceMonitor
from trtpipe.calibration.data_summary import Convergence
from trtpipe.calibration.statistics import Statistics


def convergence_of(rows: np.ndarray, **others: np.ndarray) -> Convergence | None:
    statistics, monitor = Statistics.empty(["t", *others]), ConvergenceMonitor()
    for index, row in enumerate(rows):
        statistics.update({"t": row, **{name: values[index] for name, values in others.items()}})
        if monitor.due(index + 1):
            monitor.record(statistics, index + 1)
    return monitor.convergence(statistics, len(rows))


def test_converged_ranges_and_since_when() -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (64, 1000))
    rows[:10] *= 0.5
    found = convergence_of(rows, constant=np.ones((64, 3)), nothing=np.zeros((64, 3)))
    assert found is not None
    assert found.change < 0.01
    assert 36 <= found.since <= 48
    assert 10 < found.samples_needed <= 20


def test_a_range_that_still_changes_is_named_and_more_samples_are_asked_for() -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (64, 1000))
    grows = rows * np.linspace(1, 2, 64)[:, np.newaxis]
    found = convergence_of(rows, grows=grows)
    assert found is not None
    assert found.tensor == "grows"
    assert found.change == pytest.approx(1 - (1 + found.since / 63) / 2, abs=0.05)
    assert found.samples_needed > 64


def test_too_few_samples_to_say() -> None:
    assert convergence_of(np.ones((1, 5))) is None
    assert ConvergenceMonitor().convergence(Statistics.empty([]), 0) is None
