"""Packages of several models: made, verified, signed and tested as one, and each model usable."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

import trtpipe
from trtpipe.delivery.reader import Package
from trtpipe.errors import InputError, TrtpipeError
from trtpipe.runtime import load

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def packages(build: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A folder and an archive."""
    folder = tmp_path_factory.mktemp("packages")
    words = trtpipe.ModelDescription(name="reader", version="3")
    trtpipe.make_package(build, folder / "reader.tar", description=words)
    return [trtpipe.make_package(build, folder / "detector").out, folder / "reader.tar"]


@pytest.fixture(scope="module")
def both(packages: list[Path]) -> Path:
    return trtpipe.join_packages(packages, packages[0].with_name("both"), name="pair", version="1.2").out


@pytest.mark.parametrize("form", ["both", "both.tar"])
def test_each_model_runs_as_it_does_alone(packages: list[Path], tmp_path: Path, form: str) -> None:
    made = trtpipe.join_packages(packages, tmp_path / form)
    assert trtpipe.verify_package(made.out).model == made.model
    assert [member.name for member in made.model.members] == ["detector", "reader"]
    assert (made.model.name, made.model.verdict.outcome) == ("detector+reader", "passed")
    given = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    with load(packages[0], "cpu") as alone, load(made.out, "cpu", model="reader") as inside:
        assert (inside.model.name, inside.model.version) == ("reader", "3")
        np.testing.assert_array_equal(inside(given)["y"], alone(given)["y"])


def test_equal_packages_give_equal_bytes(packages: list[Path], tmp_path: Path) -> None:
    made = [trtpipe.join_packages(packages, tmp_path / name).out.read_bytes() for name in ("a.tar", "b.tar")]
    assert made[0] == made[1]


def test_the_self_test_is_of_all(both: Path) -> None:
    found = trtpipe.selftest_package(both, "cpu")
    assert found.passed
    assert [each.name for each in found.outputs] == ["detector/y", "reader/y"]
    alone = trtpipe.selftest_package(both.with_name("detector"), "cpu")
    assert found.feeds == 2 * alone.feeds


@pytest.mark.parametrize("asked", ["", "detecter"])
def test_a_model_has_to_be_named(both: Path, asked: str) -> None:
    with pytest.raises(InputError) as caught:
        load(both, "cpu", model=asked)
    assert "detector, reader" in caught.value.remedy
    with pytest.raises(InputError, match="holds no model"):
        load(both.with_name("detector"), "cpu", model="x")


def copied(package: Path, folder: Path) -> Path:
    """Another's copy, without the list of what trtpipe wrote."""
    return shutil.copytree(package, folder, ignore=shutil.ignore_patterns(".trtpipe.json"))


def changed(both: Path, folder: Path, old: bytes, new: bytes) -> Path:
    """A copy with other bytes in the archive of a member."""
    copy = copied(both, folder / "copy")
    data = (copy / "reader.tar").read_bytes()
    assert old in data
    (copy / "reader.tar").write_bytes(data.replace(old, new, 1))
    return copy


def test_what_was_changed_in_a_member_is_refused(both: Path, tmp_path: Path) -> None:
    plan = Package.opened(both).member("reader").read("sm89.plan")
    copy = changed(both, tmp_path / "a", plan, plan[:-1] + bytes([plan[-1] ^ 1]))
    with pytest.raises(InputError, match="changed"):
        trtpipe.verify_package(copy)
    with pytest.raises(InputError, match="changed"):
        Package.opened(copy).member("reader").read("sm89.plan")
    index = changed(both, tmp_path / "b", b'"version": "3"', b'"version": "4"')
    with pytest.raises(InputError, match="not the package that"):
        load(index, "cpu", model="reader")


def test_a_member_of_another_package_is_refused(both: Path, tmp_path: Path) -> None:
    """Whole in itself, and of the same size."""
    copy = copied(both, tmp_path / "copy")
    shutil.copyfile(copy / "detector.tar", copy / "reader.tar")
    size = (copy / "reader.tar").stat().st_size
    stated = json.loads((copy / "model.json").read_text())
    next(file for file in stated["files"] if file["name"] == "reader.tar")["size"] = size
    (copy / "model.json").write_text(json.dumps(stated))
    with pytest.raises(InputError, match="not the package that"):
        load(copy, "cpu", model="reader")


@pytest.fixture(scope="module")
def signed(packages: list[Path]) -> Path:
    """The package of both, and beside it the key of who signed."""
    pytest.importorskip("cryptography", reason="needs the extra trust: cryptography")
    from trust import key_pair

    out = packages[0].with_name("signed")
    return trtpipe.join_packages(packages, out, version="1.2", sign=key_pair(out.parent).path).out


def test_one_signature_is_for_all(signed: Path, tmp_path: Path) -> None:
    found = trtpipe.verify_package(signed, key=signed.with_name("signing.pub"))
    assert found.signatory is not None
    copy = copied(signed, tmp_path / "copy")
    stated = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps(stated))
    with pytest.raises(InputError, match="since the package was signed"):
        trtpipe.verify_package(copy, key=signed.with_name("signing.pub"))


@pytest.mark.parametrize(
    ("words", "unmet"),
    [
        ('min_version = "1.2"\nprecision = ["int8"]\nreference = true', ""),
        ('min_version = "1.3"', "version 1.2 is older"),
        ('precision = ["fp16"]', "reader: precision: int8"),
        ("encrypted = true", "detector: plans and graph are not encrypted"),
        ("provenance = true", "reader: it has no signed provenance"),
    ],
)
def test_a_policy_asks_every_model(signed: Path, words: str, unmet: str) -> None:
    policy = signed.with_name("policy.toml")
    policy.write_text(f'[[signers]]\nkey = "signing.pub"\n[require]\n{words}\n')
    policy.chmod(0o644)
    if not unmet:
        assert trtpipe.selftest_package(signed, "cpu", policy=policy).passed
        return
    with pytest.raises(InputError, match="not as the policy asks") as caught:
        load(signed, "cpu", model="reader", policy=policy)
    assert unmet in caught.value.message


def test_encrypted_models_are_decrypted_one_by_one(build: Path, tmp_path: Path) -> None:
    pyrage = pytest.importorskip("pyrage")
    owner = pyrage.x25519.Identity.generate()
    (tmp_path / "key.txt").write_text(f"{owner}\n")
    (tmp_path / "key.txt").chmod(0o600)
    parts = [trtpipe.make_package(build, tmp_path / name, encrypt_to=[str(owner.to_public())]).out for name in "ab"]
    made = trtpipe.join_packages(parts, tmp_path / "both")
    assert trtpipe.verify_package(made.out, identity=tmp_path / "key.txt").decrypted
    assert trtpipe.selftest_package(made.out, "cpu", identity=tmp_path / "key.txt").passed
    with pytest.raises(InputError, match="encrypted to"):
        trtpipe.selftest_package(made.out, "cpu")


def test_what_cannot_be_joined(packages: list[Path], both: Path, build: Path, tmp_path: Path) -> None:
    for given, words in (
        ([packages[0]], "fewer than two"),
        ([packages[0], packages[0]], "two are called 'detector'"),
        ([packages[0], both], "holds several models itself"),
        ([packages[0], build], "not a package"),
        ([packages[0], tmp_path / "gone"], "no package"),
    ):
        with pytest.raises(TrtpipeError, match=words):
            trtpipe.join_packages(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    before = packages[1].read_bytes()
    with pytest.raises(InputError, match="one of the packages"):
        trtpipe.join_packages(packages, packages[1])
    assert packages[1].read_bytes() == before
    with pytest.raises(InputError, match="holds several models"):
        trtpipe.make_package(both, tmp_path / "repository", triton=True)
