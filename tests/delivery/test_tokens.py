"""Keys in PKCS#11 tokens, with a token in software (SoftHSM 2)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("cryptography", reason="needs the extra trust: cryptography")

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)
from tampering import check
from trust import authority, certificate, pem, signed_package, write

from trtpipe.config.requirements import install
from trtpipe.delivery.policy import TrustPolicy
from trtpipe.delivery.signing import SigningKey
from trtpipe.delivery.tokens import TokenUri
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACES = ("/usr/lib/softhsm", "/usr/lib/x86_64-linux-gnu/softhsm", "/usr/lib/aarch64-linux-gnu/softhsm", "/usr/lib64")
PIN = "canary1234"
CURVES = ("secp256r1", "secp384r1", "secp521r1", "secp256k1")


def module() -> Path | None:
    """SoftHSM's library; ``SOFTHSM2_MODULE`` says where it is not in the usual places."""
    given = os.environ.get("SOFTHSM2_MODULE")
    found = [Path(given)] if given else [Path(place, "libsofthsm2.so") for place in PLACES]
    return next((path for path in found if path.is_file()), None)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The module, with a token that holds a key on each curve; the library reads its configuration once a process."""
    pytest.importorskip("pkcs11", reason="needs the extra pkcs11: python-pkcs11")
    library = module()
    if library is None or shutil.which("softhsm2-util") is None:
        pytest.skip("needs softhsm2 (Debian: apt-get install softhsm2)")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
    tool = ["softhsm2-util", "--module", str(library)]
    start = [*tool, "--init-token", "--free", "--label", "release", "--so-pin", "12345678", "--pin", PIN]
    subprocess.run(start, check=True, capture_output=True)
    generate(library, folder)
    yield folder
    monkeypatch.undo()


def generate(library: Path, folder: Path) -> None:
    """A key on each curve, made in the token; of the public halves, files."""
    import pkcs11
    from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

    with pkcs11.lib(str(library)).get_token(token_label="release").open(rw=True, user_pin=PIN) as session:
        for number, curve in enumerate(CURVES):
            curve_of = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}
            parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve_of, local=True)
            public, _ = parameters.generate_keypair(store=True, label=curve, id=bytes([number]))
            key = load_der_public_key(encode_ec_public_key(public))
            text = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            write(folder / f"{curve}.pub", text, 0o644)


def uri(words: str = "token=release;object=secp256r1", query: str = "") -> str:
    return f"pkcs11:{words}?module-path={module()}{query}"


@pytest.mark.parametrize("curve", CURVES[:3])
def test_a_key_in_a_token_signs(token: Path, tmp_path: Path, curve: str) -> None:
    key = SigningKey(uri(f"token=release;object={curve}"), password=PIN)
    package = signed_package(tmp_path, key)
    check(package, TrustPolicy.of(key=token / f"{curve}.pub"))
    other = "secp384r1" if curve == "secp256r1" else "secp256r1"
    with pytest.raises(InputError, match="signed with the key"):
        check(package, TrustPolicy.of(key=token / f"{other}.pub"))


def test_by_its_id_and_with_a_file_that_holds_the_pin(token: Path, tmp_path: Path) -> None:
    pin = write(tmp_path / "pin", f"{PIN}\n".encode())
    package = signed_package(tmp_path, SigningKey(uri("token=release;id=%01;type=private", f"&pin-source=file:{pin}")))
    check(package, TrustPolicy.of(key=token / "secp384r1.pub"))
    pin.chmod(0o644)
    with pytest.raises(InputError, match="others can read it"):
        signed_package(tmp_path, SigningKey(uri(query=f"&pin-source={pin}")), out="b")


def test_with_a_certificate(token: Path, tmp_path: Path) -> None:
    public = load_pem_public_key((token / "secp256r1.pub").read_bytes())
    root = authority("root")
    chain = pem(tmp_path / "chain.pem", certificate("release", public, "root", root.key))
    package = signed_package(tmp_path, SigningKey(uri(), certificate=chain, password=PIN))
    check(package, TrustPolicy.of(ca=pem(tmp_path / "ca.pem", root.certificate)))


@pytest.mark.parametrize(("words", "problem"), [
    ("token=other;object=secp256r1", "no such tokens"),
    ("token=release;object=none", "no such private keys"),
    ("token=release;object=secp256k1", "not an elliptic-curve key on P-256"),
])  # fmt: skip
def test_what_is_not_there_is_named(token: Path, tmp_path: Path, words: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        signed_package(tmp_path, SigningKey(uri(words), password=PIN))


def test_a_wrong_or_missing_pin_is_told_and_not_shown(token: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the PIN is wrong") as caught:
        signed_package(tmp_path, SigningKey(uri(), password="canary9999"))
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"
    with pytest.raises(InputError, match="wants its PIN"):
        signed_package(tmp_path, SigningKey(uri()), out="b")


def test_what_is_no_module(tmp_path: Path) -> None:
    pytest.importorskip("pkcs11", reason="needs the extra pkcs11: python-pkcs11")
    for path in (tmp_path / "none.so", Path(__file__)):
        with pytest.raises(InputError, match="not a PKCS#11 module"):
            signed_package(tmp_path, SigningKey(f"pkcs11:object=x?module-path={path}", password=PIN))


@pytest.mark.parametrize(("given", "words"), [
    ("pkcs11:object=a", "needs module-path"),
    ("pkcs11:token=t?module-path=/x.so", "needs module-path, and object or id"),
    ("pkcs11:object=a;object=b?module-path=/x.so", "object: unknown or there twice"),
    ("pkcs11:object=a;color=red?module-path=/x.so", "color: unknown"),
    ("pkcs11:object?module-path=/x.so", "object: unknown"),
    ("pkcs11:object=a?module-path=/x.so&pin-value=canary", "the PIN is in the pkcs11: URI"),
])  # fmt: skip
def test_uris_that_say_too_little_or_too_much(given: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        TokenUri.parse(given)
    assert "canary" not in f"{caught.value!r}"


def test_uris_are_read() -> None:
    read = TokenUri.parse("pkcs11:token=My%20token;object=a;id=%01%ff?module-path=/x.so&pin-source=file:/run/pin")
    assert read == TokenUri(Path("/x.so"), "My token", "", "a", b"\x01\xff", Path("/run/pin"))


def test_without_the_package_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pkcs11'] = None\n"
        "from trtpipe.delivery.signing import SigningKey, opened\n"
        "from trtpipe.errors import HostError\n"
        "try: opened(SigningKey('pkcs11:object=a?module-path=/x.so')).__enter__()\n"
        "except HostError as error: print(error.message, '|', error.remedy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(f"| {install('pkcs11')}")
