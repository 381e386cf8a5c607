from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trtpipe.calibration.data_summary import DataSummary, DataSummaryBuilder, combined
from trtpipe.config.recipe import DataSettings
from trtpipe.data.dataset import open_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeContract


@pytest.fixture
def summarize(tmp_path: Path, contract: MakeContract) -> Any:
    def make(x: np.ndarray, batch: int = 1, dtype: str = "float32", **settings: Any) -> DataSummary:
        np.savez(tmp_path / "calib.npz", x=x)
        shape = (None, *x.shape[1:])
        dataset = open_dataset(
            DataSettings(source=str(tmp_path / "calib.npz"), batch=batch, **settings), contract(x=(dtype, shape))
        )
        builder = DataSummaryBuilder(dataset)
        for sample in dataset:
            builder.add(sample.feed)
        return builder.finish()

    return make


def test_numbers_are_those_of_the_whole_data(summarize: Any) -> None:
    x = np.random.default_rng(0).normal(3, 2, (200, 7)).astype(np.float32)
    x[::3, 2] = 0
    result = summarize(x, samples=150, seed=2)
    everything = summarize(x).inputs["x"]
    assert everything.minimum == x.min()
    assert everything.maximum == x.max()
    assert everything.mean == pytest.approx(x.astype(np.float64).mean(), rel=1e-12)
    assert everything.zeros == 67 / 1400
    assert (result.samples, result.feeds, result.seed) == (150, 150, 2)
    assert (result.source, result.warnings) == ("calib.npz (150 of 200, seed 2)", ())


def test_only_the_number_of_feeds_tells_the_batch_size(summarize: Any) -> None:
    x = np.random.default_rng(0).normal(0, 1e3, (120, 11)).astype(np.float32)
    summaries = {batch: summarize(x, batch) for batch in (1, 7, 120)}
    assert {batch: part.feeds for batch, part in summaries.items()} == {1: 120, 7: 18, 120: 1}
    assert len({part.model_copy(update={"feeds": 0}).to_json() for part in summaries.values()}) == 1


def test_integers_and_bools(summarize: Any) -> None:
    numbers = summarize(np.arange(100)[:, None], dtype="int64").inputs["x"]
    assert (numbers.minimum, numbers.maximum, numbers.mean, numbers.zeros) == (0, 99, 49.5, 0.01)
    flags = summarize(np.arange(100)[:, None] % 4 == 0, dtype="bool").inputs["x"]
    assert (flags.minimum, flags.maximum, flags.mean, flags.zeros) == (0, 1, 0.25, 0.75)


@pytest.mark.parametrize(
    ("x", "warning"),
    [
        (np.full((100, 2), 0.5), "input 'x' is 0.5 everywhere"),
        (np.linspace(0, 255, 200).reshape(100, 2), "spans 0 to 255: these look like pixels not normalized"),
        (np.linspace(0, 1, 40).reshape(20, 2), "only 20 samples"),
    ],
)
def test_warnings(summarize: Any, x: np.ndarray, warning: str) -> None:
    (found,) = summarize(x).warnings
    assert warning in found


@pytest.mark.parametrize("x", [np.linspace(0, 1, 200), np.linspace(-128, 127, 200), np.linspace(0, 5000, 200)])
def test_other_ranges_are_not_taken_for_pixels(summarize: Any, x: np.ndarray) -> None:
    assert summarize(x.reshape(100, 2)).warnings == ()


def test_combined(summarize: Any) -> None:
    x = np.random.default_rng(0).normal(0, 1, (300, 4)).astype(np.float32)
    parts = [summarize(x[:100]), summarize(x[100:])]
    both, whole = combined(parts), summarize(x)
    assert both is not None
    assert (both.samples, both.feeds) == (300, 300)
    assert both.source == "calib.npz (100 of 100) + calib.npz (200 of 200)"
    for field in ("minimum", "maximum", "mean", "zeros"):
        assert getattr(both.inputs["x"], field) == pytest.approx(getattr(whole.inputs["x"], field), rel=1e-12)
    assert combined(parts[:1]) is parts[0]
    assert combined([]) is None
    assert both.digest == combined(parts[::-1]).digest  # type: ignore[union-attr]
