"""A folder with small models, data and a matrix file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

from trtpipe.config.settings import Settings

HEAD = 'targets = ["sm89"]\nbackends = ["null"]\n'
MODELS = '[[models]]\nsource = "one.onnx"\ncalib_data = "data.npz"\n'
Matrix = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``one.onnx`` and ``two.onnx``, x[2,8] -> y[2,4], and ``data.npz``."""
    text = (
        '<ir_version: 10, opset_import: ["": 20]> g (float[2,8] x) => (float[2,4] y) { h = MatMul(x, w) y = Relu(h) }'
    )
    for seed, name in enumerate(("one", "two")):
        proto = parse_model(text)
        weights = np.random.default_rng(seed).normal(size=(8, 4)).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
        for node in proto.graph.node:
            node.name = node.op_type.lower()
        onnx.save(proto, tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(9).normal(size=(64, 8)).astype(np.float32))
    return tmp_path


@pytest.fixture
def matrix(folder: Path) -> Matrix:
    """Writes a matrix file."""

    def write(*, head: str = HEAD, models: str = MODELS, tail: str = "") -> Path:
        path = folder / "matrix.toml"
        path.write_text(head + models + tail)
        return path

    return write


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", jobs=2)
