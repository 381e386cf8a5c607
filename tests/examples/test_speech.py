"""Speech recognition: from sounds to words, with the error rate as the gate."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from examples.readme import prepared, run_commands

import trtpipe

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_the_commands_of_the_readme(tmp_path: Path) -> None:
    for package in ("torch", "tensorrt_rtx", "safetensors"):
        pytest.importorskip(package)
    *_, heard = run_commands("speech", prepared(tmp_path))
    folder = tmp_path / "build" / "speech"
    parity = trtpipe.ParityReport.read(folder / "out" / "parity.json")
    rates = {each.artifact: each.value for each in parity.metrics if each.metric == "wer"}
    assert rates["model"] < 0.1
    assert rates["lowered"] - rates["model"] <= 0.01
    assert trtpipe.Manifest.read(folder / "out" / "manifest.json").verdict.outcome == "passed"
    lines = [re.fullmatch(r"\d\.wav \(\d\.\d s\): (\d*), said (\d{2,5})", line) for line in heard.splitlines()]
    assert len(lines) == len(list((folder / "sounds").glob("*.wav"))) == 6
    assert sum(line is not None and line[1] == line[2] for line in lines) >= 4
    assert len({path.stat().st_size for path in (folder / "sounds").glob("*.wav")}) > 1
