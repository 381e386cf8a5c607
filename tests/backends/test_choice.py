from __future__ import annotations

import pytest

from trtpipe.backends import choice
from trtpipe.backends.base import Refusal
from trtpipe.backends.choice import choose_backend, default_targets
from trtpipe.backends.gpu import Gpu
from trtpipe.config.requirements import install
from trtpipe.errors import HostError


def gpu(major: int, minor: int) -> Gpu:
    return Gpu(uuid=f"GPU-{major}{minor}", name="card", capability=(major, minor), driver="580.1", memory=None)


@pytest.fixture
def machine(monkeypatch):
    """Pretend that these packages and GPUs are here."""

    def pretend(*packages: str, gpus=()):
        refusal = Refusal("not installed", "install it")
        monkeypatch.setattr(choice, "missing", lambda name: None if name in packages else refusal)
        monkeypatch.setattr(choice, "gpus", lambda: gpus)

    return pretend


@pytest.mark.parametrize(
    ("packages", "gpus", "chosen"),
    [
        (("tensorrt", "tensorrt-rtx"), (gpu(8, 9),), "tensorrt"),
        (("tensorrt",), (gpu(8, 9),), "tensorrt"),
        (("tensorrt", "tensorrt-rtx"), (), "tensorrt-rtx"),
        (("tensorrt-rtx",), (), "tensorrt-rtx"),
        (("tensorrt-rtx",), (gpu(8, 9),), "tensorrt-rtx"),
    ],
)
def test_auto_takes_what_can_build_here_and_says_why(machine, packages, gpus, chosen):
    machine(*packages, gpus=gpus)
    backend, why = choose_backend("auto")
    assert backend == chosen
    assert why


@pytest.mark.parametrize("packages", [(), ("tensorrt",), ("null",)])
def test_nothing_that_can_build_here(machine, packages):
    machine(*packages)
    with pytest.raises(HostError, match="no TensorRT is installed that can build here") as caught:
        choose_backend("auto")
    assert install("rtx") in caught.value.remedy


def test_what_is_asked_for_is_taken_or_refused(machine):
    machine("null")
    assert choose_backend("null") == ("null", "asked for")
    with pytest.raises(HostError, match="not installed"):
        choose_backend("tensorrt-rtx")


def test_tensorrt_builds_for_the_gpus_that_are_here_each_once(machine):
    machine("tensorrt", gpus=(gpu(12, 0), gpu(8, 9), gpu(8, 9)))
    targets, why = default_targets("tensorrt")
    assert [target.name for target in targets] == ["sm89", "sm120"]
    assert "this machine" in why


def test_tensorrt_without_a_gpu_or_with_one_nobody_knows(machine):
    machine("tensorrt")
    with pytest.raises(HostError, match="there is none") as caught:
        default_targets("tensorrt")
    assert "tensorrt-rtx" in caught.value.remedy
    machine("tensorrt", gpus=(gpu(6, 1),))
    with pytest.raises(HostError, match="not supported: unknown target 'sm61'"):
        default_targets("tensorrt")


@pytest.mark.parametrize("backend", ["tensorrt-rtx", "null"])
def test_others_build_for_the_usual_cards(machine, backend):
    machine(backend)
    targets, why = default_targets(backend)
    assert [target.name for target in targets] == ["sm86", "sm89", "sm120"]
    assert "GeForce" in why
