from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from trtpipe.calibration.statistics import Statistics, TensorStatistics
from trtpipe.calibration.statistics_file import save_statistics
from trtpipe.config.formats import FP8, INT8
from trtpipe.errors import InputError
from trtpipe.report.plots import plot_statistics, thresholds

if TYPE_CHECKING:
    from pathlib import Path


def seen(values: np.ndarray) -> TensorStatistics:
    tensor = TensorStatistics()
    tensor.update(values.astype(np.float32))
    return tensor


NORMAL = np.random.default_rng(0).standard_normal(20_000)


@pytest.fixture
def statistics(tmp_path: Path) -> Path:
    path = tmp_path / "statistics.npz"
    save_statistics(Statistics({"a/b $x_1$": seen(NORMAL), "nothing": seen(np.zeros(4)), "z": seen(NORMAL * 9)}), path)
    return path


def test_thresholds_are_those_of_the_methods() -> None:
    found = thresholds("t", seen(NORMAL), INT8)
    assert found["max"] == pytest.approx(np.abs(NORMAL).max(), rel=1e-6)
    assert found["percentile 99.9"] == pytest.approx(np.percentile(np.abs(NORMAL), 99.9), rel=0.01)
    assert len(found) == 7


def test_one_picture_a_tensor(statistics: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots are an extra")
    from PIL import Image

    paths = plot_statistics(statistics, tmp_path / "plots")
    assert [path.name for path in paths] == ["000_a_b_x_1_.png", "001_z.png"]
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.size[0] > 600
            assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 10
    (one,) = plot_statistics(statistics, tmp_path / "one", ["z"], FP8)
    assert one.name == "000_z.png"
    again = plot_statistics(statistics, tmp_path / "again")
    assert again[0].read_bytes() == paths[0].read_bytes()


def test_an_unknown_tensor(statistics: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots are an extra")
    with pytest.raises(InputError, match="no tensor 'y'"):
        plot_statistics(statistics, tmp_path / "plots", ["y"])
    assert not (tmp_path / "plots").exists()
