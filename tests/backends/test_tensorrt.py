"""The TensorRT back-end without TensorRT and a GPU; tests/gpu has the rest."""

from __future__ import annotations

import pytest

from trtpipe.backends.base import EngineRequest
from trtpipe.backends.gpu import has_driver
from trtpipe.backends.tensorrt import TensorRT
from trtpipe.config.profile import DeploymentProfile
from trtpipe.config.target import find_target
from trtpipe.errors import HostError

SM89 = find_target("sm89")
L4 = "GPU-1, NVIDIA L4, 8.9, 570.86.15, 23034"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Make this machine's nvidia-smi list the GPUs given."""

    def pretend(*lines: str) -> TensorRT:
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return TensorRT()

    return pretend


def test_without_a_gpu_it_refuses_and_points_to_rtx(machine, conv_net, tmp_path, settings, heard):
    backend = machine()
    refusal = backend.refuses(conv_net, DeploymentProfile(), SM89)
    assert refusal is not None
    assert "this machine has none" in refusal.reason
    assert "--backend tensorrt-rtx" in refusal.remedy
    with pytest.raises(HostError, match="needs an sm89 GPU"):
        backend.build(EngineRequest(conv_net, DeploymentProfile(), (SM89,), tmp_path / "e.plan", settings), heard)


def test_it_builds_only_for_the_gpu_that_is_here(machine, conv_net):
    backend = machine(L4)
    assert backend.refuses(conv_net, DeploymentProfile(), SM89) is None
    refusal = backend.refuses(conv_net, DeploymentProfile(), find_target("orin"))
    assert refusal is not None
    assert refusal.reason.endswith("sm87 is wanted, sm89 is here")


def test_any_of_several_gpus_will_do(machine, conv_net):
    backend = machine("GPU-0, NVIDIA T4, 7.5, 570.86.15, 15360", L4)
    for name in ("sm75", "sm89"):
        assert backend.refuses(conv_net, DeploymentProfile(), find_target(name)) is None


def test_types_the_gpu_lacks(machine, write_model):
    model = write_model("(float[2] x) => (float[2] y) { a = Cast<to=16>(x) y = Cast<to=1>(a) }")
    backend = machine("GPU-0, NVIDIA T4, 7.5, 570.86.15, 15360")
    refusal = backend.refuses(model, DeploymentProfile(), find_target("t4"))
    assert refusal is not None
    assert "bfloat16" in refusal.reason


def test_the_gpu_enters_the_key(machine, settings):
    assert machine(L4).fingerprint(settings)["gpu"] == "NVIDIA L4 (sm89)"
    assert machine().fingerprint(settings)["gpu"] == "none"


@pytest.mark.skipif(has_driver(), reason="this machine has a CUDA driver")
def test_opening_needs_a_driver(tmp_path, settings):
    (tmp_path / "e.plan").write_bytes(b"ftrt" + bytes(100))
    with pytest.raises(HostError, match="no CUDA driver"), TensorRT().open(tmp_path / "e.plan", settings):
        pass
