"""Keys and certificates of signers: elliptic curves P-256, P-384 and P-521, as OpenSSF Model Signing has them."""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from trtpipe.config.safe_files import read_secret, read_trusted
from trtpipe.delivery.envelope import Envelope, encoded
from trtpipe.delivery.tokens import SCHEME, token_key
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

#: Curve -> the hash that its signatures are made with.
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_CURVES = "an elliptic-curve key on P-256, P-384 or P-521"
_MAKE = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out signing.pem"
_PRIVATE = re.compile(rb"-----BEGIN (?P<kind>(?:EC |ENCRYPTED )?PRIVATE KEY)-----.*?-----END (?P=kind)-----\s*", re.S)
#: The most certificates of a chain.
_MOST_CERTIFICATES = 16

#: What ``cryptography`` raises for a certificate that it cannot read.
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

E = TypeVar("E", bound=x509.ExtensionType)


class PrivateKey(Protocol):
    """A key that signs, wherever it lies.

    Attributes:
        public: its public half.
    """

    @property
    def public(self) -> ec.EllipticCurvePublicKey: ...

    def sign(self, data: bytes) -> bytes:
        """The ECDSA signature on ``data``, in DER."""


@dataclass(frozen=True)
class Signer:
    """A key that is open, and the certificates that go with it."""

    key: PrivateKey
    certificates: tuple[x509.Certificate, ...] = ()

    def sign(self, payload: bytes) -> Envelope:
        """Sign a statement."""
        chain = tuple(der(each) for each in self.certificates)
        return Envelope(payload, self.key.sign(encoded(payload)), fingerprint(self.key.public), chain)


@dataclass(frozen=True, repr=False)
class FileKey:
    """A key from a PEM file."""

    key: ec.EllipticCurvePrivateKey

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        """Its public half."""
        return self.key.public_key()

    def sign(self, data: bytes) -> bytes:
        """Deterministic (RFC 6979), so that equal packages have equal signatures, where the OpenSSL in use can."""
        algorithm = hash_of(self.public)
        try:
            signature: bytes = self.key.sign(data, ec.ECDSA(algorithm, deterministic_signing=True))
        except UnsupportedAlgorithm:
            signature = self.key.sign(data, ec.ECDSA(algorithm))
        return signature


@contextmanager
def private_key(location: str, password: Callable[[], str] | None) -> Iterator[PrivateKey]:
    """The key at ``location``: a PEM file that only its owner can read, or a ``pkcs11:`` URI of a key in a token.

    Args:
        password: gives the password of the file, or the PIN of the token; asked once, and only if one is needed.

    Raises:
        InputError: there is no such key, it is of another kind, others can read it, or the password is wrong.
        HostError: a token needs a package that is not installed.
    """
    if location.startswith(SCHEME):
        with token_key(location, password) as (sign, public, name):
            yield _TokenKey(sign, curve_checked(load_der_public_key(public), name))
        return
    yield FileKey(_read_private_key(Path(location), password))


@dataclass(frozen=True, repr=False)
class _TokenKey:
    signer: Callable[[bytes], bytes]
    public: ec.EllipticCurvePublicKey

    def sign(self, data: bytes) -> bytes:
        """Tokens sign digests."""
        digest = hashes.Hash(hash_of(self.public))
        digest.update(data)
        return self.signer(digest.finalize())


def _read_private_key(path: Path, password: Callable[[], str] | None) -> ec.EllipticCurvePrivateKey:
    found = _PRIVATE.search(read_secret(path, "a private key that only its owner can read"))
    if found is None:
        raise InputError(f"{path}: no private key in PEM form", f"make one: {_MAKE}")
    secret = None
    if b"ENCRYPTED" in found[0]:
        if password is None:
            raise InputError(f"{path}: the key is protected by a password", "give it with --sign-password-env NAME")
        secret = password().encode()
    try:
        key = load_pem_private_key(found[0], secret or None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if secret is not None:
            raise InputError(f"{path}: the password does not open this key", "give the right password") from None
        raise InputError(f"{path}: not a private key that can be read", f"make one: {_MAKE}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"{path}: not {_CURVES}", f"make one: {_MAKE}")
    curve_checked(key.public_key(), str(path))
    return key


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """The public key in a PEM file that others cannot write.

    Raises:
        InputError: there is none, or it is of another kind.
    """
    data = read_trusted(path, "a public key in PEM form")
    if _PRIVATE.search(data):
        raise InputError(f"{path}: a private key", f"give its public half: openssl pkey -in {path} -pubout")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"{path}: no public key in PEM form", "write it with openssl pkey -in signing.pem -pubout"
        ) from error
    return curve_checked(key, str(path), "give the public key of whom you trust; only such keys sign packages")


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificates in a PEM file that others cannot write, in its order.

    Raises:
        InputError: there are none, or they cannot be read.
    """
    data = read_trusted(path, "certificates in PEM form")
    try:
        found = tuple(x509.load_pem_x509_certificates(data))
        for each in found:
            _look_through(each)
    except _UNREADABLE as error:
        raise InputError(f"{path}: no certificates in PEM form", "give a file of certificates") from error
    if len(found) > _MOST_CERTIFICATES:
        raise InputError(f"{path}: more than {_MOST_CERTIFICATES} certificates", "give those of one chain")
    return found


def curve_checked(key: object, where: str, remedy: str = f"make one: {_MAKE}") -> ec.EllipticCurvePublicKey:
    """``key``, if it is one on a curve in use.

    Raises:
        InputError: it is not.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise InputError(f"{where}: not {_CURVES}", remedy)
    return key


def hash_of(key: ec.EllipticCurvePublicKey) -> hashes.HashAlgorithm:
    """What signatures of this key are made with."""
    return _HASHES[key.curve.name]


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """The sha256 of the public key in PEM form: the ``hint`` of OpenSSF Model Signing, and what
    ``openssl pkey -pubin -in KEY | sha256sum`` prints.
    """
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def is_signed(data: bytes, signature: bytes, key: ec.EllipticCurvePublicKey) -> bool:
    """Whether ``signature`` is one of ``key`` on ``data``."""
    try:
        key.verify(signature, data, ec.ECDSA(hash_of(key)))
    except InvalidSignature:
        return False
    return True


def der(certificate: x509.Certificate) -> bytes:
    """A certificate in DER."""
    data: bytes = certificate.public_bytes(Encoding.DER)
    return data


def parse_chain(chain: Sequence[bytes], where: str) -> tuple[x509.Certificate, ...]:
    """Certificates in DER, looked through: ``cryptography`` reads most fields when they are asked for.

    Raises:
        InputError: one cannot be read, or there are too many.
    """
    if len(chain) > _MOST_CERTIFICATES:
        raise InputError(f"{where}: more than {_MOST_CERTIFICATES} certificates", "sign the package again")
    try:
        found = tuple(x509.load_der_x509_certificate(each) for each in chain)
        for each, data in zip(found, chain, strict=True):
            _look_through(each)
            if not data.endswith(b"\0" + each.signature):  # the one byte that neither its signature nor DER decides
                raise ValueError("unused bits in the signature")
    except _UNREADABLE as error:
        raise InputError(f"{where}: a certificate cannot be read", "sign the package again") from error
    return found


def _look_through(certificate: x509.Certificate) -> None:
    """Read every field that is used here, so that none fails to be read later."""
    for name in (certificate.subject, certificate.issuer):
        name.rfc4514_string()
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.extensions
    certificate.public_key()


def check_chain(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], where: str, at: datetime | None = None
) -> None:
    """Raise InputError unless ``chain`` leads to one of ``roots``, and its first certificate may sign.

    As OpenSSF Model Signing has it: a signature carries no trusted time, so the chain is judged as of the day on which
    the signer's certificate began to be valid. Stricter than that, a certificate with an extended key usage (of a TLS
    server, for example) has to have code signing there, and one with a key usage digital signatures.
    Every certificate of the chain has to be part of the path, so that nothing unchecked is carried along.

    Args:
        at: judge the chain as of then instead.
    """
    leaf = chain[0]
    builder = verification.PolicyBuilder().store(verification.Store(list(roots)))
    builder = builder.extension_policies(
        ca_policy=_of_authorities(), ee_policy=verification.ExtensionPolicy.permit_all()
    )
    verifier = builder.time((at or leaf.not_valid_before_utc).replace(tzinfo=None)).build_client_verifier()
    try:
        path = verifier.verify(leaf, list(chain[1:])).chain
    except (verification.VerificationError, ValueError) as error:
        reason = str(error).removeprefix("validation failed: ").removeprefix("candidates exhausted: ")
        raise InputError(
            f"{where}: the certificate {leaf.subject.rfc4514_string()} is not vouched for: {reason:.120}",
            "give the CA that issued it with --ca; or the package is not from whom it should be",
        ) from error
    if any(each not in path for each in chain):
        raise InputError(f"{where}: carries certificates that its chain does not need", "sign the package again")
    if not _may_sign(leaf):
        raise InputError(
            f"{where}: the certificate {leaf.subject.rfc4514_string()} may not be used for signing",
            "sign with one whose key usage has digitalSignature, and whose extended key usage, if any, has codeSigning",
        )


def _of_authorities() -> verification.ExtensionPolicy:
    """What a certificate that issues others has to say: that it may."""

    def is_authority(_: verification.Policy, __: x509.Certificate, constraints: x509.BasicConstraints) -> None:
        if not constraints.ca:
            raise ValueError("not a CA")

    def may_issue(_: verification.Policy, __: x509.Certificate, usage: x509.KeyUsage | None) -> None:
        if usage is not None and not usage.key_cert_sign:
            raise ValueError("may not issue certificates")

    anything, either = verification.ExtensionPolicy.permit_all(), verification.Criticality.AGNOSTIC
    return anything.require_present(x509.BasicConstraints, either, is_authority).may_be_present(
        x509.KeyUsage, either, may_issue
    )


def _may_sign(leaf: x509.Certificate) -> bool:
    """As RFC 5280 has it: each extension that is there has to allow it; and one that says so is there."""
    usage, extended = _extension(leaf, x509.KeyUsage), _extension(leaf, x509.ExtendedKeyUsage)
    allowed = [] if usage is None else [usage.digital_signature]
    allowed += [] if extended is None else [ExtendedKeyUsageOID.CODE_SIGNING in extended]
    return bool(allowed) and all(allowed)


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        found: E = certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    return found
