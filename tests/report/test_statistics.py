from __future__ import annotations

import numpy as np
import pytest
from models import statistics_reduction

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.calibration.collect import collect
from trtpipe.calibration.statistics_file import save_statistics
from trtpipe.data.synthetic import RandomDataset
from trtpipe.errors import InputError
from trtpipe.progress import NullProgress
from trtpipe.report.statistics import summarize_statistics


def test_figures_of_a_collection(tmp_path):
    contract = IOContract(inputs=(TensorSpec(name="x", dtype="float32", shape=(2, 5)),), outputs=())
    data = RandomDataset(contract, {}, samples=4, seed=3)
    values = np.concatenate([sample.feed["x"] for sample in data])

    def half_zero(feed):
        return {"y": np.where(feed["x"] < 0.5, 0, -feed["x"]).astype(np.float32)}

    save_statistics(
        collect(statistics_reduction(half_zero, ["y"]), data, ["y"], NullProgress()), tmp_path / "statistics.npz"
    )
    found = summarize_statistics(tmp_path / "statistics.npz")
    assert found.samples == 8
    assert found.data_summary.digest == data.digests().inputs
    assert list(found.tensors) == ["y"]
    y = found.tensors["y"]
    assert (y.count, y.nonfinite) == (40, 0)
    assert y.zeros == pytest.approx((values < 0.5).mean())
    assert y.minimum == -values.max()
    assert y.maximum == 0


def test_a_file_that_is_none(tmp_path):
    np.savez(tmp_path / "statistics.npz", x=np.zeros(3))
    with pytest.raises(InputError, match=r"statistics\.npz"):
        summarize_statistics(tmp_path / "statistics.npz")
