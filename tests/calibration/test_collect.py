from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from models import statistics_reduction

from trtpipe.calibration.collect import collect
from trtpipe.calibration.ranges import ranges_from_statistics
from trtpipe.config.recipe import DataSettings
from trtpipe.data.dataset import open_dataset
from trtpipe.data.synthetic import RandomDataset
from trtpipe.errors import InputError
from trtpipe.progress import NullProgress

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from conftest import Listener, MakeContract

    from trtpipe.artifact import Feed
    from trtpipe.data.dataset import Dataset
    from trtpipe.data.sample import Sample

X = np.random.default_rng(0).standard_normal((120, 8)).astype(np.float32)


def run(feed: Feed) -> Feed:
    """A model with one layer: y = relu(x W)."""
    weights = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
    return {"x": feed["x"], "y": np.maximum(feed["x"] @ weights, 0), "not asked for": feed["x"]}


@pytest.fixture
def data(tmp_path: Path, contract: MakeContract) -> Any:
    np.save(tmp_path / "x.npy", X)

    def make(batch: int = 1, **settings: Any) -> Dataset:
        source = str(tmp_path / "x.npy")
        return open_dataset(DataSettings(source=source, batch=batch, **settings), contract(x=("float32", ("N", 8))))

    return make


def test_statistics_are_of_every_value(data: Any, listener: Listener) -> None:
    statistics = collect(statistics_reduction(run, ["y", "x"]), data(50), ["y", "x"], listener)
    y = run({"x": X})["y"]
    assert sorted(statistics.tensors) == ["x", "y"]
    assert statistics.tensors["y"].count == y.size
    assert statistics.tensors["y"].zeros == np.count_nonzero(y == 0)
    assert statistics.tensors["x"].minimum == X.min()
    assert statistics.data_summary is not None
    assert (statistics.data_summary.samples, statistics.data_summary.feeds) == (120, 3)
    assert statistics.data_summary.digest == data().digests().inputs
    assert listener.calls == [("calibrate", done, 120) for done in (0, 50, 100, 120)]


def test_batch_size_changes_no_range(data: Any) -> None:
    # Integer-valued inputs and weights make the layer itself exact for any batch size.
    def exact(feed: Feed) -> Feed:
        return {"y": np.round(feed["x"] * 64) @ np.arange(-4, 4, dtype=np.float32)[:, None]}

    found = {
        batch: ranges_from_statistics(
            collect(statistics_reduction(exact, ["y"]), data(batch), ["y"], NullProgress()), "percentile", 99.0
        )
        for batch in (1, 2, 7, 120)
    }
    assert len({ranges.tensors["y"].to_json() for ranges in found.values()}) == 1
    expected = np.percentile(np.abs(exact({"x": X})["y"]), 99)
    assert found[1].tensors["y"].amax == pytest.approx(expected, rel=2.0**-7)


def test_the_first_nan_is_reported_with_tensor_and_place_and_the_reader_stops(data: Any) -> None:
    calls = 0

    def broken(feed: Feed) -> Feed:
        nonlocal calls
        calls += 1
        return {"y": feed["x"] * (np.nan if calls == 3 else 1)}

    with pytest.raises(
        InputError, match=r"(?m): feed 2, after sample 20: tensor 'y' became NaN or infinite \(80 values\)$"
    ):
        collect(statistics_reduction(broken, ["y"]), data(10), ["y"], NullProgress())
    assert calls == 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("trtpipe-data")]


def test_a_bad_sample_stops_the_run(data: Any, tmp_path: Path) -> None:
    bad = X.copy()
    bad[33, 3] = np.inf
    np.save(tmp_path / "x.npy", bad)
    with pytest.raises(InputError, match=r"x\.npy: row 33: input 'x' holds NaN or infinity"):
        collect(statistics_reduction(run, ["y"]), data(10), ["y"], NullProgress())


def test_no_samples(contract: MakeContract) -> None:
    class Nothing(RandomDataset):
        def __iter__(self) -> Generator[Sample, None, None]:
            yield from ()

    with pytest.raises(InputError, match="there are no samples"):
        collect(
            statistics_reduction(run, ["y"]), Nothing(contract(x=("float32", (1, 8))), {}, 1), ["y"], NullProgress()
        )


def test_observing_no_tensor_still_summarizes_the_data(data: Any) -> None:
    statistics = collect(statistics_reduction(run, []), data(), [], NullProgress())
    assert statistics.tensors == {}
    assert statistics.samples == 120
