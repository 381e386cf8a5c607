"""The command line in this process, a tiny model, and one bundle that many tests look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from onnx.parser import parse_model

from trtpipe.cli.app import root

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


class Run(Protocol):
    def __call__(self, *words: str | Path) -> Result: ...


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests here, so that few of them build anything."""
    return tmp_path_factory.mktemp("cli") / "cache"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = Relu(x w): one weighted operator, static shapes."""
    text = (
        '<ir_version: 10, opset_import: ["": 20]> g (float[2,8] x) => (float[2,4] y) { h = MatMul(x, w) y = Relu(h) }'
    )
    proto = parse_model(text)
    weights = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    for node in proto.graph.node:
        node.name = node.op_type.lower()
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(proto, path)
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128 samples for the model's input."""
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x=np.random.default_rng(1).normal(size=(128, 8)).astype(np.float32))
    return path


@pytest.fixture(scope="session")
def run(cache: Path) -> Run:
    """Run ``trtpipe`` with these words in this process."""

    def invoke(*words: str | Path) -> Result:
        return CliRunner().invoke(root, ["--cache-dir", str(cache), *map(str, words)])

    return invoke


@pytest.fixture(scope="session")
def bundle(run: Run, model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``trtpipe build --int8`` makes of the model."""
    out = tmp_path_factory.mktemp("bundle") / "out"
    quick = ("--backend", "null", "--target", "sm89", "--no-simplify", "--warmup", "1ms", "--duration", "10ms")
    result = run("build", model, "-o", out, "--int8", "--calib-data", data, *quick)
    assert result.exit_code == 0, result.output
    return out
