"""A package on a real GPU: what the fakes cannot show. ``pytest -m gpu``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from models import conv_net, normal, save

import trtpipe
from trtpipe.backends.gpu import gpus
from trtpipe.runtime import load

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU")]


@pytest.fixture
def package(flavor: str, tmp_path: Path) -> Path:
    save(conv_net(), tmp_path / "net.onnx")
    np.savez(tmp_path / "eval.npz", x=normal(16, 3, 8, 8, seed=1))
    shapes = {"x": trtpipe.ShapeRange(min=(1, 3, 8, 8), opt=(2, 3, 8, 8), max=(8, 3, 8, 8))}
    trtpipe.build(
        tmp_path / "net.onnx", tmp_path / "out", precision="fp16", eval_data=tmp_path / "eval.npz",
        profile=trtpipe.DeploymentProfile(backend=flavor, targets=(gpus()[0].target,), shapes=(shapes,)),
        settings=trtpipe.Settings(cache_dir=tmp_path / "cache"),
    )  # fmt: skip
    return trtpipe.make_package(tmp_path / "out", tmp_path / "package", samples=tmp_path / "eval.npz").out


def test_the_engine_computes_what_the_lowered_graph_does(package: Path) -> None:
    with load(package) as model, load(package, device="cpu") as reference:
        assert model.selftest().passed
        for count in (1, 2, 2, 2, 8, 2):
            x = normal(count, 3, 8, 8, seed=count)
            np.testing.assert_allclose(model(x)["y"], reference(x)["y"], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_graph_gives_the_same_as_single_launches(package: Path, cuda_graph: bool) -> None:
    x = normal(4, 3, 8, 8)
    with load(package, cuda_graph=cuda_graph) as model:
        found = [model(x)["y"] for _ in range(4)]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_torch_s_tensors_go_in_and_out_without_the_host(package: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA here")
    with load(package) as model:
        x = torch.from_numpy(normal(4, 3, 8, 8)).cuda()
        kept = [torch.from_dlpack(model.on_device(x + step)["y"]) for step in range(3)]
        wanted = [model((x + step).cpu().numpy())["y"] for step in range(3)]
    for found, expected in zip(kept, wanted, strict=True):
        assert found.is_cuda
        np.testing.assert_array_equal(found.cpu().numpy(), expected)
