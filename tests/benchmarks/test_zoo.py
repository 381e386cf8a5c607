"""Networks of all kinds through the whole of a build: the table always, a sample of builds with ``-m slow``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from zoo_results import Built, read, summarize, table

pytest.importorskip("torch")

import zoo_models

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SAMPLE = ("hand/unet", "hand/gru", "hand/diffusion", "hand/encoder", "hand/decoder_step", "hand/spectrum")


def built(name: str, precision: str, outcome: str) -> Built:
    return Built(name, precision, outcome, "", "", None, 0.99, 30.0, {"total": 1.0})


def test_at_least_150_networks_of_three_kinds():
    names = zoo_models.names()
    assert len(names) == len(set(names)) >= 150
    counts = {group: sum(name.startswith(f"{group}/") for name in names) for group in ("hand", "hf", "timm")}
    assert counts["hand"] >= 20
    assert counts["hf"] >= 50
    assert counts["timm"] >= 80


@pytest.mark.parametrize("name", [name for name in zoo_models.names() if name.startswith("hand/")])
def test_networks_by_hand_take_their_inputs(name):
    import torch

    module, positional, named = zoo_models.load(name)
    with torch.no_grad():
        module(*positional, **named)
    first, second = (next(zoo_models.feeds(name, seed, 1)) for seed in (1, 2))
    assert any(not np.array_equal(first[key], second[key]) for key in first)


def test_counts_by_precision():
    found = [built("a", "fp16", "passed"), built("a", "int8", "gate failed"), built("b", "int8", "passed")]
    assert summarize(found)["counts"] == {"fp16": {"passed": 1}, "int8": {"gate failed": 1, "passed": 1}}
    assert "| int8 | 2 | 1 | 1 |" in table(found, ["int8"])


def test_results_are_read_back(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(vars(built("a", "fp16", "passed"))) + "\n")
    assert read(path) == [built("a", "fp16", "passed")]


@pytest.mark.slow
def test_a_sample_is_built(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    (tmp_path / "ready").touch()  # networks by hand need no packages
    command = [sys.executable, str(BENCHMARKS / "zoo.py"), str(tmp_path), "--only", *SAMPLE]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = read(tmp_path / "results.jsonl")
    assert {(each.name, each.precision) for each in found} == {(n, p) for n in SAMPLE for p in ("fp16", "int8")}
    assert all(each.outcome in ("passed", "gate failed") for each in found), found
    assert all(each.outcome == "passed" for each in found if each.precision == "fp16"), found
