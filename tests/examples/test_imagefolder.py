"""Classification of an image folder: from images to results by class."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from examples.readme import ROOT, prepared, run_commands

import trtpipe

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_the_commands_of_the_readme(tmp_path: Path) -> None:
    for package in ("torch", "tensorrt_rtx", "sklearn", "safetensors"):
        pytest.importorskip(package)
    *_, by_class, _ = run_commands("imagefolder", prepared(tmp_path))
    lines = by_class.splitlines()
    recipe = trtpipe.CalibrationRecipe.load(ROOT / "examples" / "imagefolder" / "recipe.toml")
    assert [line.split()[0] for line in lines] == [*recipe.classes, "all"]
    counts = [tuple(map(int, re.findall(r"(\d+) of +(\d+)", line)[0])) for line in lines]
    assert tuple(map(sum, zip(*counts[:-1], strict=True))) == counts[-1]
    assert counts[-1][1] == 449
    manifest = trtpipe.Manifest.read(tmp_path / "build" / "imagefolder" / "out" / "manifest.json")
    assert manifest.verdict.outcome == "passed"
    parity = trtpipe.ParityReport.read(tmp_path / "build" / "imagefolder" / "out" / "parity.json")
    (lowered,) = [each.value for each in parity.metrics if each.artifact == "lowered"]
    assert counts[-1][0] / counts[-1][1] == pytest.approx(lowered)
    assert lowered > 0.95
