"""Signatures: what is signed verifies, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("cryptography", reason="needs the extra trust: cryptography")

from cryptography.x509.oid import ExtendedKeyUsageOID
from trust import CURVES, assembly, authority, certificate, key_pair, pem, signed_package, write

from trtpipe.delivery import signing
from trtpipe.delivery.policy import TrustPolicy
from trtpipe.delivery.reader import Package
from trtpipe.delivery.signing import SigningKey, opened, verify
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.delivery.signing import Signatory


def checked(package: Path, policy: TrustPolicy) -> Signatory:
    """As ``trtpipe package verify`` does."""
    found = Package.opened(package)
    signatory = verify(found, policy)
    found.verify()
    return signatory


@pytest.mark.parametrize("tar", [False, True])
@pytest.mark.parametrize("curve", CURVES)
def test_a_signed_package_verifies_with_the_public_key(tmp_path: Path, curve: str, tar: bool) -> None:
    pair = key_pair(tmp_path, curve=curve)
    signatory = checked(signed_package(tmp_path, pair.path, tar=tar), TrustPolicy.of(key=pair.public))
    printed = subprocess.run(["sha256sum", pair.public], capture_output=True, text=True, check=True).stdout
    assert (signatory.name, signatory.key) == ("signing.pub", printed.split()[0])


def test_equal_packages_have_equal_signatures(tmp_path: Path) -> None:
    pair = key_pair(tmp_path)
    first, second = (signed_package(tmp_path, pair.path, out) for out in ("a", "b"))
    assert (first / "model.sig").read_bytes() == (second / "model.sig").read_bytes()


def test_another_key_is_named_and_refused(tmp_path: Path) -> None:
    mine, other = key_pair(tmp_path, "mine"), key_pair(tmp_path, "other")
    package = signed_package(tmp_path, mine.path)
    with pytest.raises(InputError, match=r"signed with the key [0-9a-f]{64}, which is not that of other\.pub"):
        checked(package, TrustPolicy.of(key=other.public))


def test_an_unsigned_package_is_refused(tmp_path: Path) -> None:
    pair = key_pair(tmp_path)
    package = signed_package(tmp_path, pair.path)
    (package / "model.sig").unlink()
    with pytest.raises(InputError, match=r"not signed: there is no model\.sig"):
        checked(package, TrustPolicy.of(key=pair.public))


def test_the_signature_of_another_package_by_the_same_key_is_refused(tmp_path: Path) -> None:
    pair = key_pair(tmp_path)
    package = signed_package(tmp_path, pair.path)
    parts = tmp_path / "other"
    with opened(SigningKey(pair.path)) as signer:
        other = assembly(parts)
        (parts / "sm89.plan").write_bytes(b"naln")
        from dataclasses import replace

        plan = replace(other.model.plans[0], sha256=other.listed().model.file("sm89.plan").sha256)
        other = replace(other, model=replace(other.model, plans=(plan,)))
        signed = signing.signed(other.sealed(parts), signer, parts)
    (package / "model.sig").unlink()
    (package / "model.sig").write_bytes(signed.files["model.sig"].read_bytes())
    with pytest.raises(InputError, match="changed since the package was signed"):
        checked(package, TrustPolicy.of(key=pair.public))


def test_files_are_signed_and_not_only_the_index(tmp_path: Path) -> None:
    """Whoever changes a file and its digest in ``model.json`` still has no signature on either."""
    pair = key_pair(tmp_path)
    package = signed_package(tmp_path, pair.path)
    changed = assembly(tmp_path / "changed")
    (tmp_path / "changed" / "lowered.onnx").write_bytes(b"evils")
    changed = changed.sealed(tmp_path / "changed")
    for name in ("lowered.onnx", "model.json"):
        (package / name).unlink()
        (package / name).write_bytes(changed.files[name].read_bytes())
    Package.opened(package).verify()
    with pytest.raises(InputError, match="changed since the package was signed"):
        checked(package, TrustPolicy.of(key=pair.public))


class TestCertificates:
    def test_a_chain_to_ones_own_authority_verifies(self, tmp_path: Path) -> None:
        root = authority("root")
        between = authority("between", root, length=0)
        pair = key_pair(tmp_path)
        leaf = certificate("release", pair.private, "between", between.key)
        chain = pem(tmp_path / "chain.pem", leaf, between.certificate)
        package = signed_package(tmp_path, SigningKey(pair.path, certificate=chain))
        signatory = checked(package, TrustPolicy.of(ca=pem(tmp_path / "ca.pem", root.certificate)))
        assert (signatory.subject, signatory.issuer) == ("CN=release", "CN=between")
        assert signatory.expires.startswith("2035-12-30")

    def test_the_subject_can_be_required(self, tmp_path: Path) -> None:
        root = authority("root")
        pair = key_pair(tmp_path)
        chain = pem(tmp_path / "chain.pem", certificate("intern", pair.private, "root", root.key))
        package = signed_package(tmp_path, SigningKey(pair.path, certificate=chain))
        pem(tmp_path / "ca.pem", root.certificate)
        policy = write(tmp_path / "p.toml", b'[[signers]]\nca = "ca.pem"\nsubject = "CN=release"\n')
        with pytest.raises(InputError, match="signed by CN=intern, not by CN=release"):
            checked(package, TrustPolicy.load(policy))
        policy.write_text('[[signers]]\nca = "ca.pem"\nsubject = "CN=intern"\n')
        assert checked(package, TrustPolicy.load(policy)).subject == "CN=intern"

    def test_an_expired_certificate_is_refused_where_the_policy_says_so(self, tmp_path: Path) -> None:
        root = authority("root")
        pair = key_pair(tmp_path)
        leaf = certificate("old", pair.private, "root", root.key, days=1)
        package = signed_package(tmp_path, SigningKey(pair.path, certificate=pem(tmp_path / "c.pem", leaf)))
        pem(tmp_path / "ca.pem", root.certificate)
        policy = write(tmp_path / "p.toml", b'[[signers]]\nca = "ca.pem"\n')
        assert checked(package, TrustPolicy.load(policy)).expires.startswith("2026-01-02")
        write(policy, b'unexpired = true\n[[signers]]\nca = "ca.pem"\n')
        with pytest.raises(InputError, match="not valid at validation time"):
            checked(package, TrustPolicy.load(policy))

    @pytest.mark.parametrize("fault", [
        "another root of that name", "an issuer that is no CA", "an issuer without constraints", "too long a chain",
        "not for signing", "no intermediate",
    ])  # fmt: skip
    def test_a_chain_that_does_not_hold_is_refused(self, tmp_path: Path, fault: str) -> None:
        root = authority("root", length=0 if fault == "too long a chain" else None)
        plain = authority("between", root, constraints=fault != "an issuer without constraints")
        if fault == "an issuer that is no CA":
            key = plain.key
            plain = type(plain)("between", key, certificate("between", key, "root", root.key))
        pair = key_pair(tmp_path)
        leaf = certificate("release", pair.private, "between", plain.key, signs=fault != "not for signing")
        others = () if fault == "no intermediate" else (plain.certificate,)
        trusted = authority("root") if fault == "another root of that name" else root
        package = forged(tmp_path, pair, pem(tmp_path / "chain.pem", leaf, *others))
        with pytest.raises(InputError, match=r"not vouched for|may not be used for signing"):
            checked(package, TrustPolicy.of(ca=pem(tmp_path / "ca.pem", trusted.certificate)))

    @pytest.mark.parametrize(("signs", "extended", "may"), [
        (True, (), True), (True, ("CODE_SIGNING",), True), (True, ("SERVER_AUTH", "CODE_SIGNING"), True),
        (True, ("SERVER_AUTH",), False), (True, ("SERVER_AUTH", "CLIENT_AUTH"), False),
        (False, ("CODE_SIGNING",), False),
    ])  # fmt: skip
    def test_what_a_certificate_is_for_decides(
        self, tmp_path: Path, signs: bool, extended: tuple[str, ...], may: bool
    ) -> None:
        root, pair = authority("root"), key_pair(tmp_path)
        uses = tuple(getattr(ExtendedKeyUsageOID, each) for each in extended)
        leaf = certificate("release", pair.private, "root", root.key, signs=signs, extended=uses)
        chain = pem(tmp_path / "chain.pem", leaf, root.certificate)
        package = forged(tmp_path, pair, chain)
        policy = TrustPolicy.of(ca=pem(tmp_path / "ca.pem", root.certificate))
        if may:
            assert checked(package, policy).subject == "CN=release"
            return
        with pytest.raises(InputError, match="may not be used for signing"):
            checked(package, policy)
        with pytest.raises(InputError, match="may not be used for signing"):
            signed_package(tmp_path, SigningKey(pair.path, certificate=chain))

    def test_certificates_that_the_chain_does_not_need_are_refused(self, tmp_path: Path) -> None:
        root, stranger = authority("root"), authority("stranger")
        pair = key_pair(tmp_path)
        leaf = certificate("release", pair.private, "root", root.key)
        package = forged(tmp_path, pair, pem(tmp_path / "chain.pem", leaf, stranger.certificate))
        with pytest.raises(InputError, match="does not need"):
            checked(package, TrustPolicy.of(ca=pem(tmp_path / "ca.pem", root.certificate)))

    def test_a_certificate_of_another_key_signs_nothing(self, tmp_path: Path) -> None:
        root = authority("root")
        mine, other = key_pair(tmp_path, "mine"), key_pair(tmp_path, "other")
        chain = pem(tmp_path / "chain.pem", certificate("release", other.private, "root", root.key))
        with pytest.raises(InputError, match="not that of the key"):
            signed_package(tmp_path, SigningKey(mine.path, certificate=chain))
        package = forged(tmp_path, mine, chain)
        with pytest.raises(InputError, match="the signature is not that of CN=release"):
            checked(package, TrustPolicy.of(ca=pem(tmp_path / "ca.pem", root.certificate)))

    def test_a_key_is_no_certificate(self, tmp_path: Path) -> None:
        pair = key_pair(tmp_path)
        package = signed_package(tmp_path, pair.path)
        with pytest.raises(InputError, match=r"not that of ca\.pem"):
            checked(package, TrustPolicy.of(ca=pem(tmp_path / "ca.pem", authority("root").certificate)))


def forged(folder: Path, pair: object, chain: Path) -> Path:
    """A package signed with a chain that signing itself would refuse."""
    from trtpipe.delivery.keys import FileKey, Signer, read_certificates

    parts = folder / "forged"
    signer = Signer(FileKey(pair.private), read_certificates(chain))  # type: ignore[attr-defined]
    signed = signing.signed(assembly(parts).sealed(parts), signer, parts)
    (folder / "package").mkdir()
    for name, path in signed.files.items():
        (folder / "package" / name).write_bytes(path.read_bytes())
    return folder / "package"


class TestPrivateKeys:
    def test_one_that_others_can_read_is_refused(self, tmp_path: Path) -> None:
        pair = key_pair(tmp_path)
        for mode in (0o640, 0o604, 0o622, 0o660):
            pair.path.chmod(mode)
            with pytest.raises(InputError, match=f"others can read it .mode {mode:04o}") as caught:
                signed_package(tmp_path, pair.path)
            assert caught.value.remedy == f"chmod 600 {pair.path}"

    @pytest.mark.parametrize("given", ["opensesame", lambda: "opensesame"])
    def test_a_password_opens_it(self, tmp_path: Path, given: object) -> None:
        pair = key_pair(tmp_path, password="opensesame")
        key = SigningKey(pair.path, password=given)  # type: ignore[arg-type]
        assert "opensesame" not in repr(key)
        assert checked(signed_package(tmp_path, key), TrustPolicy.of(key=pair.public)).name == "signing.pub"

    def test_a_wrong_or_missing_password_is_told_and_not_shown(self, tmp_path: Path) -> None:
        pair = key_pair(tmp_path, password="right")
        with pytest.raises(InputError, match="the password does not open this key") as caught:
            signed_package(tmp_path, SigningKey(pair.path, password="canary"))
        assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"
        with pytest.raises(InputError, match="protected by a password"):
            signed_package(tmp_path, pair.path)

    def test_a_password_is_not_asked_for_in_vain(self, tmp_path: Path) -> None:
        def ask() -> str:
            raise AssertionError("asked")

        pair = key_pair(tmp_path)
        package = signed_package(tmp_path, SigningKey(pair.path, password=ask))
        assert checked(package, TrustPolicy.of(key=pair.public)).name == "signing.pub"

    def test_openssl_s_older_form_is_read(self, tmp_path: Path) -> None:
        made = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-out", str(tmp_path / "k.pem")]
        subprocess.run(made, check=True, capture_output=True)
        (tmp_path / "k.pem").chmod(0o600)
        assert b"EC PARAMETERS" in (tmp_path / "k.pem").read_bytes()
        public = ["openssl", "ec", "-in", str(tmp_path / "k.pem"), "-pubout", "-out", str(tmp_path / "k.pub")]
        subprocess.run(public, check=True, capture_output=True)
        (tmp_path / "k.pub").chmod(0o600)
        package = signed_package(tmp_path, tmp_path / "k.pem")
        assert checked(package, TrustPolicy.of(key=tmp_path / "k.pub")).name == "k.pub"

    @pytest.mark.parametrize(("options", "words"), [
        (["-algorithm", "RSA"], "not an elliptic-curve key on P-256"),
        (["-algorithm", "ED25519"], "not an elliptic-curve key on P-256"),
        (["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"], "not an elliptic-curve key on P-256"),
    ])  # fmt: skip
    def test_other_kinds_are_refused(self, tmp_path: Path, options: list[str], words: str) -> None:
        subprocess.run(
            ["openssl", "genpkey", *options, "-out", str(tmp_path / "k.pem")], check=True, capture_output=True
        )
        (tmp_path / "k.pem").chmod(0o600)
        with pytest.raises(InputError, match=words):
            signed_package(tmp_path, tmp_path / "k.pem")
        public = ["openssl", "pkey", "-in", str(tmp_path / "k.pem"), "-pubout", "-out", str(tmp_path / "k.pub")]
        subprocess.run(public, check=True, capture_output=True)
        (tmp_path / "k.pub").chmod(0o600)
        with pytest.raises(InputError, match=words) as caught:
            TrustPolicy.of(key=tmp_path / "k.pub")
        assert "genpkey" not in caught.value.remedy  # a new key would verify nothing

    @pytest.mark.parametrize(
        "content", [b"", b"\xff", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
    )
    def test_what_is_no_key(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(InputError, match=r"k\.pem: (no private key|not a private key)"):
            signed_package(tmp_path, write(tmp_path / "k.pem", content))
        with pytest.raises(InputError, match="cannot be read"):
            signed_package(tmp_path, tmp_path / "none.pem", out="b")
        with pytest.raises(InputError, match="cannot be read"):
            signed_package(tmp_path, tmp_path, out="c")
        os.mkfifo(tmp_path / "pipe", 0o600)
        with pytest.raises(InputError, match="not a file"):
            signed_package(tmp_path, tmp_path / "pipe", out="d")

    def test_a_private_key_is_no_public_one(self, tmp_path: Path) -> None:
        pair = key_pair(tmp_path)
        with pytest.raises(InputError, match="a private key"):
            TrustPolicy.of(key=pair.path)


def test_verifying_needs_little(tmp_path: Path) -> None:
    """The runtime calls it before anything native reads a byte, on machines that have little more than numpy."""
    pair = key_pair(tmp_path)
    package = signed_package(tmp_path, pair.path)
    code = (
        "import sys; from pathlib import Path; from trtpipe.delivery.reader import Package\n"
        "from trtpipe.delivery.signing import verify; from trtpipe.delivery.policy import TrustPolicy\n"
        "package, key = map(Path, sys.argv[1:]); print(verify(Package.opened(package), TrustPolicy.of(key=key)).name)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & {'numpy', 'onnx', 'onnx_ir', 'onnxruntime',"
        "'pydantic', 'click', 'rich', 'polygraphy', 'torch', 'pyrage', 'pkcs11', 'model_signing', 'tomli_w'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, package, pair.public], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n") == ["signing.pub", "", ""]
