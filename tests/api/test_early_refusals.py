"""What is not there is named before any stage runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import conv_net, save

import trtpipe
from trtpipe.errors import InputError


class Steps(trtpipe.NullProgress):
    """Which steps began."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def begin(self, step: str) -> None:
        self.begun.append(step)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    save(conv_net(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("data", ["gone.npz", "gone.py:samples", "photos", "https://example.com/d.npz"])
@pytest.mark.parametrize("argument", ["calib_data", "eval_data"])
def test_data(network: Path, tmp_path: Path, argument: str, data: str) -> None:
    steps = Steps()
    where = data if "//" in data else str(tmp_path / data)
    with pytest.raises(InputError) as caught:
        trtpipe.build(network, tmp_path / "out", precision="fp16", progress=steps, **{argument: where})  # type: ignore[arg-type]
    assert where.partition(".py:")[0] in caught.value.message
    assert steps.begun == []


def test_a_model_that_is_not_there_is_named_before_data_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.onnx: no such file"):
        trtpipe.build(tmp_path / "no.onnx", tmp_path / "out", precision="int8")


def test_a_url_is_shown_as_it_was_given() -> None:
    with pytest.raises(InputError, match=r"https://example\.com/m\.onnx: URLs are not read"):
        trtpipe.build("https://example.com/m.onnx", "out", precision="fp16")


def test_data_that_is_held_has_no_path(network: Path, tmp_path: Path) -> None:
    feeds = [{"x": np.zeros((1, 3, 8, 8), np.float32)}]
    assert trtpipe.dry_run(network, precision="int8", calib_data=feeds, shapes={"x": (1, 3, 8, 8)})


@pytest.mark.parametrize("name", ["psnr", "top1"])
def test_a_floor_of_another_metric(network: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "met.py").write_text("def score(outputs, labels): return 1.0\n")
    steps = Steps()
    recipe = {"evaluation": {"metric": f"{tmp_path / 'met.py'}:score"}}
    job = trtpipe.make_job(
        network,
        engines=False,
        recipe=trtpipe.CalibrationRecipe.model_validate(recipe),
        profile=trtpipe.DeploymentProfile.model_validate({"accuracy": {"min_metric": {name: 0.5}}}),
    )
    with pytest.raises(InputError, match=f"min_metric {name}: the metric is ") as caught:
        trtpipe.build(job, tmp_path / "out", progress=steps)
    assert "=VALUE" in caught.value.remedy
    assert steps.begun == []
