"""Networks that full INT8 and FP8 break are within budget with all defaults; trained here, from seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from default_cases import DefaultCase

import trtpipe
from trtpipe.backends.base import load_backend
from trtpipe.config.recipe import CalibrationRecipe, DataSettings
from trtpipe.report.stage_records import LowerRecord

if TYPE_CHECKING:
    from pathlib import Path


pytest.importorskip("torch")
#: What 8 bits may cost of the metric.
BUDGET = 0.01


def within_budget(case: DefaultCase, precision: str, folder: Path) -> None:
    settings = trtpipe.Settings(cache_dir=folder / "cache")
    trtpipe.simplify(case.model, folder, settings=settings)
    profile = {"precision": precision, "shapes": [case.profiles]}
    asked = {
        "profile": trtpipe.DeploymentProfile.model_validate(profile),
        "recipe": CalibrationRecipe(data=DataSettings(source=str(case.folder / "calib.npz"))),
        "settings": settings,
    }
    trtpipe.calibrate(folder / "simplified.onnx", folder, **asked)
    trtpipe.lower(folder / "simplified.onnx", folder, ranges=folder / "ranges.json", **asked)
    found = []
    for name in ("simplified.onnx", "lowered.onnx"):
        with load_backend("onnxruntime").open(folder / name, settings) as runner:
            found.append(next(iter(case.evaluate(runner.infer).values())))
    assert found[0] > 0.75, "not trained"
    assert found[1] >= found[0] - BUDGET
    work = LowerRecord.read(folder / "lowered.onnx.json").work
    assert work is not None
    assert work.share >= 0.65


def trained(call: str, folder: Path) -> DefaultCase:
    """What a call of ``default_models`` makes; in a process of its own, whose threads and logs are torch's."""
    code = f"import sys, default_models as d; from pathlib import Path; d.{call}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env=environment, capture_output=True)
    return DefaultCase(folder)


def test_inverted_residuals(tmp_path: Path) -> None:
    within_budget(trained("lite(Path(sys.argv[1]), epochs=3)", tmp_path / "net"), "int8", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("name", ["depthwise", "detector", "yolox", "efficientnet", "lite", "swin"])
def test_networks_of_every_kind(name: str, precision: str, tmp_path: Path) -> None:
    within_budget(trained(f"MODELS[{name!r}](Path(sys.argv[1]))", tmp_path / "net"), precision, tmp_path)
