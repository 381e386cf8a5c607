"""A package and signatures on it with fixed bytes (``golden/``): what was signed once stays valid.

``<key>.sig`` is by trtpipe, ``<key>-model_signing.sig`` by ``model_signing`` 1.1.1, on the same package. Private keys
are derived from a number here; that of the CA in ``ca.pem`` was thrown away.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("cryptography", reason="needs the extra trust: cryptography")

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from packages import FILES
from tampering import accepted, check
from trust import CURVES, write

from trtpipe.delivery.assembly import Assembly
from trtpipe.delivery.policy import TrustPolicy
from trtpipe.delivery.reader import Package
from trtpipe.delivery.signing import SigningKey, opened, signed

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).with_name("golden")
NUMBER = 20261130
SIGNATURES = sorted(path.stem for path in GOLDEN.glob("*.sig"))


def who(name: str) -> str:
    return name.removesuffix("-model_signing")


@pytest.fixture
def package(tmp_path: Path) -> Callable[[str], Path]:
    """The package with one of the signatures."""

    def made(name: str) -> Path:
        folder = tmp_path / "package"
        shutil.copytree(GOLDEN / "package", folder)
        shutil.copyfile(GOLDEN / f"{name}.sig", folder / "model.sig")
        return folder

    return made


def policy(name: str, folder: Path) -> TrustPolicy:
    file = "ca.pem" if name == "certificate" else f"{name}.pub"
    copy = write(folder / file, (GOLDEN / file).read_bytes(), 0o644)  # a checkout may be writable for others
    return TrustPolicy.of(ca=copy) if name == "certificate" else TrustPolicy.of(key=copy)


def test_there_is_one_for_every_kind_of_key() -> None:
    kinds = [*CURVES, "certificate"]
    assert sorted([*kinds, *(f"{kind}-model_signing" for kind in kinds)]) == SIGNATURES
    assert {path.name: path.read_bytes() for path in (GOLDEN / "package").iterdir() if path.name in FILES} == FILES


@pytest.mark.parametrize("name", SIGNATURES)
def test_is_verified(package: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    check(package(name), policy(who(name), tmp_path))


@pytest.mark.parametrize("name", SIGNATURES)
def test_is_refused_by_all_others(package: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    made = package(name)
    for other in {*CURVES, "certificate"} - {who(name)}:
        assert not accepted(made, policy(other, tmp_path)), other


@pytest.mark.parametrize("name", SIGNATURES)
def test_is_verified_by_model_signing(package: Callable[[str], Path], name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("model_signing", reason="needs tests/interop_requirements.txt: model-signing, pyopenssl")
        from model_signing import verifying

        config = verifying.Config()
        if who(name) == "certificate":
            config = config.use_certificate_verifier(certificate_chain=[GOLDEN / "ca.pem"])
        else:
            config = config.use_elliptic_key_verifier(public_key=GOLDEN / f"{who(name)}.pub")
        made = package(name)
        config.verify(made, made / "model.sig")


@pytest.mark.parametrize("name", [*CURVES, "certificate"])
def test_the_same_key_signs_the_same_package_with_the_same_bytes(
    package: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """Signatures are deterministic (RFC 6979)."""
    made = package(name)
    found = Package.opened(made)
    private = ec.derive_private_key(NUMBER, CURVES["P-256" if name == "certificate" else name]())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = write(tmp_path / "key.pem", pem)
    chain = write(tmp_path / "chain.pem", (GOLDEN / "chain.pem").read_bytes(), 0o644)
    key = SigningKey(path, certificate=chain if name == "certificate" else None)
    assembly = Assembly(found.model, {each: made / each for each in (*FILES, "model.json")})
    with opened(key) as signer:
        again = signed(assembly, signer, tmp_path)
    assert again.files["model.sig"].read_bytes() == (GOLDEN / f"{name}.sig").read_bytes()
