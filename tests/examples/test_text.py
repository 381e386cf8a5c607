"""Sentence embeddings: from sentences to the nearest ones, with Spearman's correlation as the gate."""

from __future__ import annotations

import runpy
from typing import TYPE_CHECKING

import numpy as np
import pytest
from examples.readme import ROOT, prepared, run_commands

import trtpipe

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_the_commands_of_the_readme(tmp_path: Path) -> None:
    for package in ("torch", "tensorrt_rtx", "safetensors"):
        pytest.importorskip(package)
    *_, nearest = run_commands("text", prepared(tmp_path))
    out = tmp_path / "build" / "text" / "out"
    parity = trtpipe.ParityReport.read(out / "parity.json")
    values = {each.artifact: each.value for each in parity.metrics}
    assert values["model"] > 0.8
    assert values["model"] - values["lowered"] <= 0.01
    assert trtpipe.Manifest.read(out / "manifest.json").verdict.outcome == "passed"
    cosines = [float(line.split()[0]) for line in nearest.splitlines()]
    assert len(cosines) == 3
    assert cosines == sorted(cosines, reverse=True)
    assert "identity of two objects" in nearest.splitlines()[0]


def test_the_metric_is_spearmans() -> None:
    """1 for embeddings whose cosine is what is to be found, about 0 for the same in a random order."""
    data = runpy.run_path(str(ROOT / "examples" / "text" / "data.py"))
    wanted = [value for _, _, value in data["pairs"]("test", 300)]

    def embeddings(cosines: list[float]) -> object:
        left = iter(cosines)

        def run(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            assert feed["ids"].shape == feed["mask"].shape
            cosine = next(left)
            return {"embedding": np.array([[1.0, 0.0], [cosine, np.sqrt(1 - cosine**2)]])}

        return run

    assert data["spearman"](embeddings(wanted))["spearman"] == pytest.approx(1.0)
    assert data["spearman"](embeddings([value**3 for value in wanted]))["spearman"] == pytest.approx(1.0)
    shuffled = np.random.default_rng(0).permutation(wanted).tolist()
    assert abs(data["spearman"](embeddings(shuffled))["spearman"]) < 0.2
