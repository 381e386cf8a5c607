"""``auto`` on models with outliers that are known: junk to be clipped, and signal that must not be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from models import model, normal, run, save

import trtpipe
from trtpipe.calibration.methods import COMPARED_METHODS
from trtpipe.config.recipe import CalibrationRecipe, DataSettings

if TYPE_CHECKING:
    from pathlib import Path

    from models import Feed

WIDE, CLASSES = 12_000, 5
SPIKE = 60.0


def junk(rows: int, seed: int) -> np.ndarray:
    """Normal values; in one row of 500 the first one is hundreds of times as large, and means nothing."""
    x = normal(rows, 16, seed=seed)
    x[:, 0] = 0
    x[::500, 0] = 600
    return x


def spikes(rows: int, seed: int) -> np.ndarray:
    """Faint noise, and in every row one large value of a level that decides the class: one value of 12 000."""
    x = normal(rows, WIDE, seed=seed, scale=0.1)
    rng = np.random.default_rng([seed, 1])
    x[np.arange(rows), rng.integers(0, WIDE, rows)] = SPIKE * (1 + rng.integers(0, CLASSES, rows)) / CLASSES
    return x


def junk_model() -> tuple[onnx.ModelProto, Feed, Feed]:
    first = normal(16, 32, seed=1)
    first[0] = 0
    proto = model(
        "(float[N,16] x) => (float[N,5] y) { h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }",
        a=first,
        b=normal(32, CLASSES, seed=2),
    )
    return proto, {"x": junk(1500, 3)}, {"x": junk(3000, 4)}


def spike_model() -> tuple[onnx.ModelProto, Feed, Feed]:
    """The row's sum stands for its one large value; the nearest level is the class."""
    levels = SPIKE * (1 + np.arange(CLASSES, dtype=np.float32)) / CLASSES
    proto = model(
        "(float[N,12000] x) => (float[N,5] y) { s = MatMul(x, ones) m = Mul(s, levels) y = Sub(m, halves) }",
        ones=np.ones((WIDE, 1), np.float32),
        levels=levels,
        halves=levels**2 / 2,
    )
    return proto, {"x": spikes(150, 3)}, {"x": spikes(400, 4)}


def both_models() -> tuple[onnx.ModelProto, Feed, Feed]:
    """One head of each kind, so that no single method serves both."""
    (one, calibration, evaluation), (other, more, others) = junk_model(), spike_model()
    a, b = (onnx.numpy_helper.to_array(tensor) for tensor in one.graph.initializer)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in other.graph.initializer}
    proto = model(
        "(float[N,16] x, float[N,12000] z) => (float[N,5] y, float[N,5] w) { h = MatMul(x, a) r = Relu(h) "
        "y = MatMul(r, b) s = MatMul(z, ones) m = Mul(s, levels) w = Sub(m, halves) }",
        a=a,
        b=b,
        **weights,
    )
    rows, many = len(more["x"]), len(others["x"])
    return (
        proto,
        {"x": calibration["x"][:rows], "z": more["x"]},
        {"x": evaluation["x"][:many], "z": others["x"]},
    )


@pytest.mark.parametrize("make", [junk_model, spike_model, both_models])
def test_auto_is_as_good_as_the_best_method(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    proto, calibration, evaluation = make()
    path = save(proto, tmp_path / "simplified.onnx")
    np.savez(tmp_path / "data.npz", **calibration)
    expected = run(proto, evaluation)

    def score(method: str, percentile: float | None) -> float:
        recipe = CalibrationRecipe(
            method=method,  # type: ignore[arg-type]
            percentile=percentile or 99.99,
            corrections="none",  # ranges alone are compared
            data=DataSettings(source=str(tmp_path / "data.npz"), batch=10),
        )
        job = trtpipe.make_job(
            profile=trtpipe.DeploymentProfile(precision="int8"),
            recipe=recipe,
            settings=trtpipe.Settings(cache_dir=tmp_path / "cache"),
            engines=False,
        )
        trtpipe.calibrate(job, path, tmp_path / "out")
        trtpipe.lower(job, path, tmp_path / "out", tmp_path / "out" / "ranges.json")
        found = run(onnx.load(tmp_path / "out" / "lowered.onnx"), evaluation)
        return float(np.mean([np.mean(found[n].argmax(1) == expected[n].argmax(1)) for n in expected]))

    scores = {str(choice): score(choice.method, choice.percentile) for choice in COMPARED_METHODS}
    auto = score("auto", None)
    assert min(scores.values()) < 0.9, "the outliers matter"
    assert auto >= max(scores.values()) - 0.001, scores
    if make is both_models:
        assert auto > max(scores.values()) + 0.02, scores
