"""Reducers beside a runner: in this process, and in the child that runs the graph."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from models import conv_net, model, normal, save, with_outputs

from trtpipe.backends.onnxruntime import OnnxRuntime
from trtpipe.calibration.statistics import Statistics
from trtpipe.calibration.statistics_arrays import STATISTICS_REDUCER, from_arrays
from trtpipe.config.settings import Settings
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", worker_seconds=60.0)


@pytest.mark.parametrize("isolate", [True, False])
def test_what_runs_give_is_counted_where_it_lies(tmp_path: Path, settings: Settings, isolate: bool) -> None:
    feeds = [{"x": normal(2, 3, 8, 8, seed=seed)} for seed in range(3)]
    expected = Statistics.empty(["f", "x"])
    path = save(with_outputs(conv_net(), ["f", "y"]), tmp_path / "m.onnx")
    with OnnxRuntime().open(path, replace(settings, isolate=isolate)) as runner:
        reduction = runner.reduced(STATISTICS_REDUCER, ("x", "f"))
        for feed in feeds:
            outputs = runner.infer(feed)
            expected.update({**feed, **outputs})
            left = reduction.run(feed)
            assert list(left) == ["y"]
            np.testing.assert_array_equal(left["y"], outputs["y"])
        assert from_arrays(("f", "x"), reduction.result()).tensors == expected.tensors
        assert from_arrays(("f", "x"), reduction.result()).tensors == Statistics.empty(["f", "x"]).tensors


@pytest.mark.parametrize("isolate", [True, False])
def test_of_a_run_with_a_nan_nothing_is_counted(tmp_path: Path, settings: Settings, isolate: bool) -> None:
    path = save(model("(float[N] x) => (float[N] l, float[N] y) { y = Relu(x) l = Log(x) }"), tmp_path / "m.onnx")
    good, bad = ({"x": np.array(values, np.float32)} for values in ([1, 2], [1, -1]))
    with OnnxRuntime().open(path, replace(settings, isolate=isolate)) as runner:
        reduction = runner.reduced(STATISTICS_REDUCER, ("y", "l"))
        reduction.run(good)
        with pytest.raises(InputError, match=r"^tensor 'l' became NaN or infinite \(1 values\)"):
            reduction.run(bad)
        reduction.run(good)
        found = from_arrays(("l", "y"), reduction.result()).tensors
    assert [(each.count, each.maximum) for each in found.values()] == [(4, np.float32(np.log(2))), (4, 2.0)]
