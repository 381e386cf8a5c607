"""Object detection: from scenes to boxes drawn into pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from examples.readme import prepared, run_commands

import trtpipe

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_the_commands_of_the_readme(tmp_path: Path) -> None:
    for package in ("torch", "tensorrt_rtx", "sklearn", "safetensors"):
        pytest.importorskip(package)
    *_, drawn = run_commands("detection", prepared(tmp_path))
    folder = tmp_path / "build" / "detection"
    parity = trtpipe.ParityReport.read(folder / "out" / "parity.json")
    values = {each.artifact: each.value for each in parity.metrics if each.metric == "map"}
    assert values["model"] > 0.5
    assert values["model"] - values["lowered"] <= 0.02
    assert trtpipe.Manifest.read(folder / "out" / "manifest.json").verdict.outcome == "passed"
    pictures = sorted((folder / "pictures").glob("*-found.png"))
    assert len(pictures) == len(drawn.splitlines()) == 4
    for path in pictures:
        assert path.read_bytes() != path.with_name(path.name.replace("-found", "")).read_bytes()
