"""Torch-TensorRT where it is installed: with torch-tensorrt-rtx and no GPU, everything but running the engine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from trtpipe.api import stages
from trtpipe.backends import base, torch_tensorrt, torch_tensorrt_build
from trtpipe.backends.base import EngineRequest
from trtpipe.backends.engine_file import RTX_TARGETS, read_header
from trtpipe.backends.gpu import has_driver
from trtpipe.backends.torch_tensorrt import TorchTensorRT
from trtpipe.backends.trt import backend as trt_backend
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.settings import Settings
from trtpipe.config.target import find_target
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import BuildError, HostError, InternalError

SM89 = find_target("sm89")
installed = pytest.mark.skipif(
    base.missing("torch-tensorrt") is not None, reason="torch-tensorrt is not installed: '.[torch-tensorrt]'"
)
NETS = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, inner, outer, stride):
        super().__init__()
        self.a, self.na = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.b, self.nb = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        self.skip = nn.Conv2d(inner, outer, 1, stride)

    def forward(self, x):
        return torch.relu(self.nb(self.b(torch.relu(self.na(self.a(x))))) + self.skip(x))

def images():
    torch.manual_seed(0)
    net = nn.Sequential(Block(3, 8, 1), Block(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return net, (torch.ones(2, 3, 16, 16),)

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(50, 32), nn.Embedding(40, 32)
        self.layer, self.head = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), nn.Linear(32, 3)

    def forward(self, ids):
        return {"classes": self.head(self.layer(self.words(ids) + self.places(torch.arange(ids.shape[1]))).mean(1))}

def words():
    return Words(), (torch.ones(2, 8, dtype=torch.int64),)

class Inverse(nn.Module):
    def forward(self, x):
        values, vectors = torch.linalg.eigh(x)
        return torch.linalg.inv(x) @ vectors

def inverse():
    return Inverse(), (torch.eye(4),)

class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gru, self.head = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.gru(x)[0])

def steps():
    return Steps(), (torch.ones(2, 3, 8),)
"""
BATCHES = {"input": {"min": [1, 3, 16, 16], "opt": [2, 3, 16, 16], "max": [8, 3, 16, 16]}}
LARGE = {"input": {"min": [8, 3, 16, 16], "opt": [8, 3, 16, 16], "max": [16, 3, 16, 16]}}
STEPS = {"x": {"min": [1, 3, 8], "opt": [2, 3, 8], "max": [4, 3, 8]}}
LENGTHS = {"ids": {"min": [1, 2], "opt": [2, 8], "max": [4, 40]}}


@pytest.fixture(params=["torch-tensorrt-rtx", "torch-tensorrt"])
def package(request, monkeypatch):
    """Pretends that one of the two packages is the one installed."""
    monkeypatch.setattr(torch_tensorrt, "version", lambda name: "2.14.0" if name == request.param else None)
    return request.param


class TestAsking:
    def test_what_it_refuses(self, package, monkeypatch):
        backend, profile = TorchTensorRT(), DeploymentProfile()
        monkeypatch.setattr(trt_backend, "gpus", lambda: ())
        refusal = backend.refuses(Path("lowered.onnx"), profile, SM89)
        assert refusal is not None
        assert "this is an ONNX graph" in refusal.reason
        for precision in ("int8", "fp8", "best"):
            refusal = backend.refuses(None, DeploymentProfile(precision=precision), SM89)
            assert refusal is not None
            assert "already quantized" in refusal.reason
        refusal = backend.refuses(None, profile, SM89)
        if package == "torch-tensorrt-rtx":
            assert refusal is None
            assert backend.refuses(None, profile, find_target("sm90")) is not None
        else:
            assert refusal is not None
            assert "torch-tensorrt-rtx" in refusal.remedy

    def test_its_flavor_and_fingerprint(self, package, settings):
        backend = TorchTensorRT()
        assert backend.flavor == package.removeprefix("torch-")
        assert backend.fingerprint(settings)["torch-tensorrt"] == f"{package} 2.14.0"

    def test_a_graph_is_never_built(self, tmp_path, settings, heard):
        with pytest.raises(InternalError):
            TorchTensorRT().build(
                EngineRequest(Path("a.onnx"), DeploymentProfile(), (SM89,), tmp_path / "e.plan", settings), heard
            )


@installed
class TestBuilding:
    @pytest.fixture
    def make(self, tmp_path, heard):
        (tmp_path / "nets.py").write_text(NETS)

        def compile_(function, shapes=(), precision="fp32", targets=("sm89",), **export):
            profile = DeploymentProfile.model_validate(
                {"backend": "torch-tensorrt", "targets": targets, "precision": precision, "shapes": shapes,
                 "export": export}
            )  # fmt: skip
            settings = Settings(cache_dir=tmp_path / "cache", worker_seconds=300.0)
            source = f"{tmp_path / 'nets.py'}:{function}"
            stages.compile(source, tmp_path / "out", profile=profile, settings=settings, progress=heard)
            return EngineRecord.read(tmp_path / "out" / f"{targets[0]}.plan.json")

        return compile_

    @pytest.mark.parametrize(("precision", "type_"), [("fp32", "Float"), ("fp16", "Half"), ("bf16", "BFloat16")])
    def test_a_residual_net_with_two_profiles(self, make, tmp_path, precision, type_):
        record = make("images", (BATCHES, LARGE), precision, output_names=("logits",))
        assert record.route.startswith("torch-tensorrt")
        assert [spec.name for spec in record.io.inputs] == ["input"]
        assert [spec.name for spec in record.io.outputs] == ["logits"]
        assert {spec.dtype for spec in (*record.io.inputs, *record.io.outputs)} == {"float32"}
        assert [profile["input"].max[0] for profile in record.profiles] == [8, 16]
        assert record.report is not None
        assert record.precisions[type_] >= 6, "six convolutions and a fully connected layer, some fused"
        if record.flavor == "tensorrt-rtx":
            header = read_header(tmp_path / "out" / "sm89.plan")
            assert (header.flavor, header.targets, header.version) == (record.flavor, ("sm89",), record.version)

    def test_sequences_of_any_length(self, make):
        record = make("words", LENGTHS, "fp16")
        assert [spec.name for spec in record.io.outputs] == ["classes"]
        assert record.precisions["Half"] >= 4
        assert record.io.inputs[0].dtype == "int64"

    def test_an_operator_without_converter_is_named(self, make):
        with pytest.raises(BuildError, match=r"no converter for .*linalg_inv") as caught:
            make("inverse")
        assert "through ONNX" in caught.value.remedy
        assert "linalg_eigh" in caught.value.message
        assert "getitem" not in caught.value.message, "it only takes apart what eigh returns"

    def test_recurrent_layers_in_16_bits(self, make):
        assert make("steps", STEPS, "fp16").precisions["Half"] >= 6, "two products a step and the head, some fused"

    def test_opening_needs_a_driver(self, make, tmp_path, settings):
        if has_driver():
            pytest.skip("this machine has a CUDA driver")
        make("images", (BATCHES,))
        with (
            pytest.raises(HostError, match="no CUDA driver"),
            TorchTensorRT().open(tmp_path / "out" / "sm89.plan", settings),
        ):
            pass


def test_a_layer_that_tensorrt_refuses_is_reported_with_its_message(tmp_path):
    """The converter only meets a tensor without a rank, later."""
    request = SimpleNamespace(model=str(tmp_path / "program.pt2"))
    error = RuntimeError("While executing %linear : target=torch.ops.aten.linear.default\nlater")
    error.__cause__ = ValueError("__len__() should return >= 0")
    refused = "ITensor::getDimensions: Error Code 4: API Usage Error (/linear: `A` is Float and `B` is Half.)"
    with pytest.raises(BuildError, match=r"cannot convert .*`A` is Float and `B` is Half"):
        torch_tensorrt_build._result(error, request, None, SimpleNamespace(errors=[refused]))
    with pytest.raises(BuildError, match=r"ValueError: __len__\(\) should return >= 0"):
        torch_tensorrt_build._result(error, request, None, SimpleNamespace(errors=[]))
    tied = AssertionError("expected sympy.Symbol")
    with pytest.raises(BuildError, match="cannot convert it: PyTorch cannot rewrite a saved program"):
        torch_tensorrt_build._result(tied, request, None, SimpleNamespace(errors=[]))


def test_it_knows_the_targets_of_its_tensorrt():
    assert "sm89" in RTX_TARGETS
