"""``trtpipe package``: signing, encrypting and verifying from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("cryptography", reason="needs the extra trust: cryptography")
pytest.importorskip("pyrage", reason="needs the extra trust: pyrage")

import pyrage
from trust import KeyPair, authority, certificate, key_pair, pem, write

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

PASSWORD = "canary-password"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def pair(folder: Path) -> KeyPair:
    return key_pair(folder, password=PASSWORD)


@pytest.fixture(scope="module")
def recipient(folder: Path) -> str:
    made = pyrage.x25519.Identity.generate()
    write(folder / "identity.txt", f"{made}\n".encode())
    return str(made.to_public())


@pytest.fixture(scope="module")
def package(run: Run, bundle: Path, folder: Path, pair: KeyPair, recipient: str) -> Path:
    """Signed with a key that has a password, and encrypted."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SIGNING_PASSWORD", PASSWORD)
    words = ("--sign", pair.path, "--sign-password-env", "SIGNING_PASSWORD", "--encrypt-to", recipient)
    result = run("package", "make", bundle, "-o", folder / "pkg.tar", *words, "--log-file", folder / "log.txt")
    patch.undo()
    assert result.exit_code == 0, result.output
    # the next command works once FILE is the recipient's
    assert result.stdout.splitlines()[-1].endswith("pkg.tar --device cpu --identity FILE")
    assert PASSWORD not in result.output + (folder / "log.txt").read_text()
    assert PASSWORD.encode() not in (folder / "pkg.tar").read_bytes()
    return folder / "pkg.tar"


def test_says_who_signed_what_is_inside_and_whether_it_is_whole(
    run: Run, package: Path, pair: KeyPair, recipient: str
) -> None:
    result = run("package", "verify", package, "--key", pair.public)
    assert result.exit_code == 0, result.output
    for words in ("whole: 6 files", "int8", "sm89.plan", "signed by: signing.pub", recipient, "not decrypted"):
        assert words in result.output


def test_the_same_as_one_json_document(run: Run, package: Path, pair: KeyPair) -> None:
    document = json.loads(run("package", "verify", package, "--key", pair.public, "--json").stdout)
    assert (document["command"], document["exit_code"], document["signed"]) == ("package verify", 0, True)
    assert document["signatory"]["name"] == "signing.pub"
    assert document["provenance"]["signed"]
    assert document["model"]["precision"] == "int8"


def test_an_identity_shows_that_it_can_be_decrypted(run: Run, package: Path, folder: Path) -> None:
    result = run("package", "verify", package, "--identity", folder / "identity.txt")
    assert "decrypted with the given identity" in result.output
    assert "NOT CHECKED: give --key, --ca or --policy" in result.output
    write(folder / "other.txt", f"{pyrage.x25519.Identity.generate()}\n".encode())
    result = run("package", "verify", package, "--identity", folder / "other.txt")
    assert result.exit_code == 2
    assert "it is encrypted to age1" in result.output


def test_a_policy_decides(run: Run, package: Path, folder: Path) -> None:
    policy = write(folder / "p.toml", b'[[signers]]\nkey = "signing.pub"\n[require]\nencrypted = true\n', 0o644)
    assert run("package", "verify", package, "--policy", policy).exit_code == 0
    policy.write_text('[[signers]]\nkey = "signing.pub"\n[require]\nprecision = ["fp16"]\n')
    result = run("package", "verify", package, "--policy", policy)
    assert result.exit_code == 2
    assert "precision: int8, not fp16" in result.output


def test_a_certificate_of_ones_own_authority(run: Run, bundle: Path, tmp_path: Path) -> None:
    root, pair = authority("root"), key_pair(tmp_path)
    chain = pem(tmp_path / "chain.pem", certificate("release", pair.private, "root", root.key))
    ca = pem(tmp_path / "ca.pem", root.certificate)
    made = run("package", "make", bundle, "-o", tmp_path / "pkg", "--sign", pair.path, "--sign-cert", chain)
    assert made.exit_code == 0, made.output
    result = run("package", "verify", tmp_path / "pkg", "--ca", ca)
    assert result.exit_code == 0
    assert "CN=release, issued by CN=root" in result.output


@pytest.mark.parametrize(("words", "message"), [
    (("--sign-cert", "x.pem"), "go with --sign"),
    (("--sign", "missing.pem"), "missing.pem: cannot be read"),
    (("--sign", "{key}", "--sign-password-env", "NOT_SET"), "NOT_SET is not set"),
    (("--sign", "{key}"), "protected by a password"),
    (("--encrypt-to", "someone"), "no public key"),
])  # fmt: skip
def test_what_cannot_be_used(
    run: Run, bundle: Path, tmp_path: Path, pair: KeyPair, words: tuple[str, ...], message: str
) -> None:
    given = [word.format(key=pair.path) for word in words]
    result = run("package", "make", bundle, "-o", tmp_path / "pkg", *given)
    assert result.exit_code == 2
    assert message in result.output
    assert "try:" in result.output
    assert not (tmp_path / "pkg").exists()


@pytest.mark.parametrize(("words", "message"), [
    (("{package}", "--key", "{secret}"), "a private key"),
    (("{package}", "--key", "missing.pub"), "missing.pub: cannot be read"),
    (("{package}", "--policy", "missing.toml"), "missing.toml: cannot be read"),
    (("{package}", "--identity", "missing.txt"), "missing.txt: cannot be read"),
    (("missing", "--key", "{public}"), "no package"),
])  # fmt: skip
def test_what_cannot_be_verified(run: Run, package: Path, pair: KeyPair, words: tuple[str, ...], message: str) -> None:
    given = [word.format(package=package, secret=pair.path, public=pair.public) for word in words]
    result = run("package", "verify", *given)
    assert result.exit_code == 2
    assert message in result.output
    assert "try:" in result.output
