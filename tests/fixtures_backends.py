"""Small ONNX models, and a progress that remembers, for the tests of the back-ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

from trtpipe.config.settings import Settings
from trtpipe.progress import NullProgress


class Heard(NullProgress):
    """Remembers every report."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, int, int | None]] = []

    def advance(self, phase: str, done: int, total: int | None) -> None:
        self.reports.append((phase, done, total))


class WriteModel(Protocol):
    def __call__(self, graph: str, *, opset: int = 20, name: str = "model.onnx", **weights: np.ndarray) -> Path: ...


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", worker_seconds=60.0)


@pytest.fixture
def write_model(tmp_path: Path) -> WriteModel:
    """Write a graph in ONNX's text syntax, its nodes named ``<op>_<index>``, with ``weights`` as initializers."""

    def write(graph: str, *, opset: int = 20, name: str = "model.onnx", **weights: np.ndarray) -> Path:
        model = parse_model(f'<ir_version: 10, opset_import: ["": {opset}, "custom": 1]> g {graph}')
        model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in weights.items())
        for index, node in enumerate(model.graph.node):
            node.name = f"{node.op_type.lower()}_{index}"
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return write


@pytest.fixture
def conv_net(write_model: WriteModel) -> Path:
    """Conv and Relu over a dynamic batch; 216 float32 weights."""
    weights = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    return write_model(
        "(float[N,3,16,16] x) => (float[N,8,16,16] y) { c = Conv<pads=[1,1,1,1]>(x, w) y = Relu(c) }", w=weights
    )


@pytest.fixture
def product(write_model: WriteModel) -> Path:
    """One static float32 matrix product."""
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    return write_model("(float[2,64] x) => (float[2,64] y) { y = MatMul(x, w) }", name="product.onnx", w=weights)


@pytest.fixture
def recording_tensorrt(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recording fake behind ``import tensorrt``, here and in child processes, and a nvidia-smi that lists an L4."""
    fake = str(Path(__file__).parent / "backends" / "recording")
    monkeypatch.setattr(sys, "path", [fake, *sys.path])
    monkeypatch.setenv("PYTHONPATH", fake, prepend=os.pathsep)
    tool = tmp_path_factory.mktemp("driver") / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU-1, NVIDIA L4, 8.9, 570.86.15, 23034'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
