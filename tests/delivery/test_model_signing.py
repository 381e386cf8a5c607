"""The real ``model_signing``: it verifies what we sign, we verify what it signs, and both refuse the same packages."""

from __future__ import annotations

import shutil
import warnings
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("cryptography", reason="needs the extra trust: cryptography")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("model_signing", reason="needs tests/interop_requirements.txt: model-signing, pyopenssl")
    from model_signing import hashing, signing, verifying

from packages import written
from tampering import CHANGES, check
from trust import CURVES, authority, certificate, key_pair, pem, signed_package

from trtpipe.delivery.policy import TrustPolicy
from trtpipe.delivery.signing import SigningKey
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")
#: Changes that model_signing does not see, and why trtpipe refuses them all the same.
STRICTER = {
    "a hidden file added": "files of git are ignored",
    "a folder added": "an empty folder is no file",
    "a signature more": "only the first is looked at",
}


def verified(package: Path, public: Path) -> bool:
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
    try:
        verifier.verify(package, package / "model.sig")
    except Exception:  # noqa: BLE001 - it has no errors of its own
        return False
    return True


@pytest.mark.parametrize("curve", CURVES)
def test_it_verifies_what_we_sign_with_a_key(tmp_path: Path, curve: str) -> None:
    pair, other = key_pair(tmp_path, curve=curve), key_pair(tmp_path, "other", curve)
    package = signed_package(tmp_path, pair.path)
    (package / ".trtpipe.json").write_bytes(written(package, []))
    assert verified(package, pair.public)
    assert not verified(package, other.public)


@pytest.mark.parametrize("curve", CURVES)
def test_we_verify_what_it_signs_with_a_key(tmp_path: Path, curve: str) -> None:
    pair, other = key_pair(tmp_path, curve=curve), key_pair(tmp_path, "other", curve)
    package = signed_package(tmp_path, other.path)
    (package / ".trtpipe.json").write_bytes(written(package, []))
    (package / "model.sig").unlink()
    ignored = hashing.Config().set_ignored_paths(paths=["model.sig"])
    signer = signing.Config().set_hashing_config(ignored).use_elliptic_key_signer(private_key=pair.path)
    signer.sign(package, package / "model.sig")
    check(package, TrustPolicy.of(key=pair.public))
    with pytest.raises(InputError, match="signed with the key"):
        check(package, TrustPolicy.of(key=other.public))
    (package / ".trtpipe.json").write_bytes(written(package, ["model.json"]))
    with pytest.raises(InputError, match=r"\.trtpipe\.json: changed"):
        check(package, TrustPolicy.of(key=pair.public))


def test_certificates_both_ways(tmp_path: Path) -> None:
    root, stranger = authority("root"), authority("stranger")
    between = authority("between", root)
    pair = key_pair(tmp_path)
    leaf = pem(tmp_path / "leaf.pem", certificate("release", pair.private, "between", between.key))
    above = pem(tmp_path / "above.pem", between.certificate)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(leaf.read_bytes() + above.read_bytes())
    chain.chmod(0o644)
    ca, other = pem(tmp_path / "ca.pem", root.certificate), pem(tmp_path / "other.pem", stranger.certificate)
    package = signed_package(tmp_path, SigningKey(pair.path, certificate=chain))
    theirs = verifying.Config().use_certificate_verifier(certificate_chain=[ca])
    theirs.verify(package, package / "model.sig")
    with pytest.raises(Exception, match="issuer"):
        verifying.Config().use_certificate_verifier(certificate_chain=[other]).verify(package, package / "model.sig")
    (package / "model.sig").unlink()
    signer = signing.Config().set_hashing_config(hashing.Config().set_ignored_paths(paths=["model.sig"]))
    signer.use_certificate_signer(private_key=pair.path, signing_certificate=leaf, certificate_chain=[above])
    signer.sign(package, package / "model.sig")
    check(package, TrustPolicy.of(ca=ca))
    with pytest.raises(InputError, match="not vouched for"):
        check(package, TrustPolicy.of(ca=other))


@pytest.mark.parametrize("change", CHANGES)
def test_it_refuses_what_we_refuse(tmp_path: Path, change: str) -> None:
    pair = key_pair(tmp_path)
    package = signed_package(tmp_path, pair.path)
    copy = tmp_path / "copy" / "pkg"
    shutil.copytree(package, copy)
    CHANGES[change](copy)
    assert verified(copy, pair.public) == (change in STRICTER)
    with pytest.raises(InputError):
        check(copy, TrustPolicy.of(key=pair.public))
