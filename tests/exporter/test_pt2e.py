"""Programs as PyTorch's own quantization (pt2e) leaves them: quantizers between operators on floats."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import load

import trtpipe
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.settings import Settings
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import StageError

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.api.results import BuildResult

pytest.importorskip("torch")

#: What ``convert_pt2e`` makes of a convolution and a linear layer: integer weights, and a pair before each of the two.
CODE = """
import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # the operators

ops = torch.ops.quantized_decomposed

class Converted(torch.nn.Module):
    def __init__(self, zero, dtype):
        super().__init__()
        limits = torch.iinfo(dtype)
        self.how = (zero, limits.min, limits.max, dtype)
        draw = torch.Generator().manual_seed(0)
        self.register_buffer("w", torch.randint(-127, 128, (32, 16, 3, 3), generator=draw, dtype=torch.int8))
        self.register_buffer("w_scale", torch.rand(32, generator=draw) * 1e-3 + 5e-4)
        self.register_buffer("w_zero", torch.zeros(32, dtype=torch.int64))
        self.register_buffer("v", torch.randint(-127, 128, (24, 32), generator=draw, dtype=torch.int8))
        self.bias = torch.nn.Parameter(torch.randn(32, generator=draw) / 8)

    def pair(self, x, scale):
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(x, scale, *self.how), scale, *self.how)

    def forward(self, x):
        w = ops.dequantize_per_channel(self.w, self.w_scale, self.w_zero, 0, -127, 127, torch.int8)
        h = torch.relu(torch.nn.functional.conv2d(self.pair(x, 0.03), w, self.bias, padding=1))
        v = ops.dequantize_per_tensor(self.v, 0.004, 0, -127, 127, torch.int8)
        return torch.nn.functional.linear(self.pair(h.permute(0, 2, 3, 1), 0.02), v)

def net(zero, dtype):
    return Converted(zero, dtype).eval(), (torch.zeros(2, 16, 12, 12),)

def symmetric(): return net(0, torch.int8)
def middle(): return net(128, torch.uint8)
def asymmetric(): return net(7, torch.int8)
def unsigned(): return net(3, torch.uint8)

def feeds():
    open(__file__ + ".read", "w").close()
    for seed in range(8):
        yield {"x": np.random.default_rng(seed).normal(size=(2, 16, 12, 12)).astype(np.float32)}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path / "net.py"


def build(file: Path, function: str, precision: str, **profile: Any) -> BuildResult:
    pytest.importorskip("tensorrt_rtx")
    return trtpipe.build(
        f"{file}:{function}", file.with_name("out"), targets=["sm89"], calib_data=f"{file}:feeds",
        profile=DeploymentProfile.model_validate({"precision": precision, "backend": "tensorrt-rtx", **profile}),
        settings=Settings(cache_dir=file.with_name("cache")),
    )  # fmt: skip


def operators(path: Path) -> list[str]:
    return [node.op_type for node in load(path).graph.node]


@pytest.mark.parametrize("function", ["symmetric", "middle"])
def test_symmetric_ones_are_taken_as_they_are(file: Path, function: str) -> None:
    result = build(file, function, "fp16")
    assert result.accurate
    assert operators(file.with_name("out") / "model.onnx").count("QuantizeLinear") == 2
    report = EngineRecord.read(file.with_name("out") / "sm89.plan.json").report
    assert report is not None
    assert report.conv_gemm_types == {"Int8": 2}


def test_a_saved_program_brings_its_operators(file: Path) -> None:
    save = (
        f"import sys; sys.path.insert(0, {str(file.parent)!r}); import net, torch; module, example = net.symmetric(); "
        f"torch.export.save(torch.export.export(module, example), {str(file.with_name('net.pt2'))!r})"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", save], check=True, capture_output=True)
    out = file.with_name("net.onnx")
    trtpipe.export(file.with_name("net.pt2"), out, settings=Settings(cache_dir=file.with_name("cache")))
    assert operators(out).count("QuantizeLinear") == 2


@pytest.mark.parametrize(("function", "word"), [("asymmetric", "zero point of 7"), ("unsigned", "uint8")])
def test_others_are_refused_before_data_is_read(file: Path, function: str, word: str) -> None:
    with pytest.raises(StageError, match=word) as caught:
        build(file, function, "int8")
    assert caught.value.exit_code == 5
    assert "--requantize" in caught.value.remedy
    assert not file.with_name("net.py.read").exists()


def test_taken_out_they_are_found_anew(file: Path) -> None:
    result = build(file, "unsigned", "int8", requantize=True)
    assert result.accurate
    assert not [op for op in operators(file.with_name("out") / "model.onnx") if "uantize" in op]
    report = EngineRecord.read(file.with_name("out") / "sm89.plan.json").report
    assert report is not None
    assert report.conv_gemm_types == {"Int8": 2}
    assert np.isfinite(result.parity.comparisons[-1].outputs[0].mean_abs)  # type: ignore[union-attr]
