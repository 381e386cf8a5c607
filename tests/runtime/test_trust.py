"""Signed and encrypted packages that are called: nothing native sees what is untrusted, no disk what is secret."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cryptography", reason="needs the extra trust: cryptography")
pytest.importorskip("pyrage", reason="needs the extra trust: pyrage")

import pyrage
from trust import key_pair, write

import trtpipe
from trtpipe.errors import InputError
from trtpipe.runtime import load

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key pair, a policy that trusts it, and an identity."""
    folder = tmp_path_factory.mktemp("keys")
    key_pair(folder)
    write(folder / "policy.toml", b'[[signers]]\nkey = "signing.pub"\n[require]\nencrypted = true\n', 0o644)
    for name in ("identity", "other"):
        write(folder / f"{name}.txt", f"{pyrage.x25519.Identity.generate()}\n".encode())
    return folder


@pytest.fixture(scope="module")
def secret(real_build: Path, keys: Path) -> Path:
    identity = pyrage.x25519.Identity.from_str((keys / "identity.txt").read_text().strip())
    made = trtpipe.make_package(
        real_build, keys / "p.tar", sign=keys / "signing.pem", encrypt_to=[str(identity.to_public())]
    )
    return made.out


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Files that Python opens to write, from now on; bytecode apart."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found: list[str] = []
    watching = [True]

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if not watching or event != "open":
            return
        path, _, flags = arguments
        if not isinstance(path, int) and isinstance(flags, int) and flags & WRITES:  # a number is a file that is open
            found.append(str(path))

    sys.addaudithook(watch)  # it cannot be taken away
    yield found
    watching.clear()


def test_the_graph_is_decrypted_in_memory_alone(secret, keys, lowered, written, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with load(secret, "cpu", policy=keys / "policy.toml", identity=keys / "identity.txt") as model:
        np.testing.assert_allclose(model(images(2))["y"], lowered(images(2)), rtol=1e-5, atol=1e-6)
        assert model.selftest().passed
    assert written
    assert {Path(path).parts[:3] for path in written} == {("/", "dev", "shm")}
    assert not any(Path(path).exists() for path in written)
    assert not list(tmp_path.iterdir())


def test_nothing_decrypted_lies_anywhere_while_a_model_is_loaded(secret, keys, written):
    """So a process that is killed leaves nothing."""
    with load(secret, "cpu", identity=keys / "identity.txt") as model:
        assert written
        assert not any(Path(path).parent.name.startswith("trtpipe-") and Path(path).parent.exists() for path in written)
        assert model(images(2))["y"].shape == (2, 5)


def test_the_plan_is_decrypted_in_memory_alone(secret, real_build, keys, machine, written):
    with load(secret, policy=keys / "policy.toml", identity=keys / "identity.txt") as model:
        assert machine.plans == [(real_build / "sm89.plan").read_bytes()]
        assert model(images(2))["y"].shape == (2, 5)
    assert written == []


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_without_the_right_identity_the_recipient_is_named(secret, keys, machine, device):
    with pytest.raises(InputError, match=r"(sm89\.plan|lowered\.onnx): encrypted to age1"):
        load(secret, device)
    with pytest.raises(InputError, match=r"no identity in .*other\.txt opens it: it is encrypted to age1"):
        load(secret, device, identity=keys / "other.txt")
    assert machine.plans == []


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_native_sees_what_is_not_trusted(real_build, package, keys, machine, tmp_path, device):
    key_pair(tmp_path, "stranger")
    policy = write(tmp_path / "p.toml", b'[[signers]]\nkey = "stranger.pub"\n', 0o644)
    trtpipe.make_package(real_build, tmp_path / "signed", sign=keys / "signing.pem")
    with pytest.raises(InputError, match="which is not that of"):
        load(tmp_path / "signed", device, policy=policy)
    with pytest.raises(InputError, match="not signed"):
        load(package, device, policy=policy)
    assert machine.plans == []


def test_the_self_test_takes_both(secret, keys):
    found = trtpipe.selftest_package(
        secret, "cpu", policy=keys / "policy.toml", identity=keys / "identity.txt"
    )  # fmt: skip
    assert found.passed
