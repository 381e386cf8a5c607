"""A decoder with its cache: the text that PyTorch gives."""

from __future__ import annotations

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
    *_, generated = run_commands("decoder", prepared(tmp_path))
    out = tmp_path / "build" / "decoder" / "out"
    parity = trtpipe.ParityReport.read(out / "parity.json")
    assert {each.artifact: each.value for each in parity.metrics} == {"model": 1.0, "simplified": 1.0, "lowered": 1.0}
    assert trtpipe.Manifest.read(out / "manifest.json").verdict.outcome == "passed"
    text, same = generated.splitlines()
    assert text.startswith("the statement is |")
    assert same.startswith("100% of 20 texts")
