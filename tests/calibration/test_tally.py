from __future__ import annotations

import numpy as np
import pytest
from models import normal

from trtpipe.calibration.statistics import Statistics
from trtpipe.calibration.statistics_arrays import from_columns
from trtpipe.calibration.tally import Tally
from trtpipe.errors import InputError


def test_inputs_and_outputs_are_counted_and_others_are_handed_back() -> None:
    tally, expected = Tally(["y", "x"]), Statistics.empty(["x", "y"])
    for seed in range(3):
        feed, outputs = {"x": normal(4, 3, seed=seed)}, {"y": normal(2, seed=seed), "probe": normal(1, seed=seed)}
        expected.update({**feed, **outputs})
        left = tally.take(feed, outputs)
        assert list(left) == ["probe"]
        assert left["probe"] is outputs["probe"]
    assert from_columns(("x", "y"), tally.result()).tensors == expected.tensors


def test_asking_begins_anew() -> None:
    tally = Tally(["y"])
    for scale in (3.0, 1.0):
        tally.take({}, {"y": normal(50) * np.float32(scale)})
        found = from_columns(["y"], tally.result()).tensors["y"]
        assert (found.count, found.largest) == (50, np.abs(normal(50) * np.float32(scale)).max())


def test_a_nan_in_the_last_tensor_leaves_no_trace_in_the_first_ones() -> None:
    tally, expected = Tally(["a", "b", "c"]), Tally(["a", "b", "c"])
    fine = {"a": normal(1, 16, 160, 160), "b": normal(7), "c": normal(5)}
    bad = {"a": normal(1, 16, 160, 160, seed=1, scale=50), "b": np.zeros(7, np.float32), "c": np.array([1, np.nan])}
    tally.take({}, fine)
    expected.take({}, fine)
    with pytest.raises(InputError, match=r"^tensor 'c' became NaN or infinite \(1 values\)$"):
        tally.take({}, bad)
    found = tally.result()
    for name, values in expected.result().items():
        np.testing.assert_array_equal(found[name], values)
