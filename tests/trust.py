"""Keys, certificates and signed packages to look at. Imports what the extra ``trust`` brings."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from packages import FILES, record

from trtpipe.delivery.assembly import Assembly
from trtpipe.delivery.signing import SigningKey, opened, signed

CURVES = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


@dataclass(frozen=True)
class KeyPair:
    """A private key, its file, and the file of its public half."""

    private: ec.EllipticCurvePrivateKey
    path: Path
    public: Path


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def key_pair(folder: Path, name: str = "signing", curve: str = "P-256", password: str = "") -> KeyPair:
    key = ec.generate_private_key(CURVES[curve]())
    sealed = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return KeyPair(key, write(folder / f"{name}.pem", private), write(folder / f"{name}.pub", public, 0o644))


@dataclass(frozen=True)
class Authority:
    """One who issues certificates."""

    name: str
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    certificate: x509.Certificate


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def certificate(
    name: str, key: object, issuer: str, by: object, *,
    ca: bool = False, length: int | None = None, signs: bool = True, constraints: bool = True,
    days: int = 3650, start: datetime.datetime = START, extended: tuple[x509.ObjectIdentifier, ...] = (),
) -> x509.Certificate:  # fmt: skip
    builder = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named(issuer))
    public = key.public_key() if hasattr(key, "public_key") else key
    builder = builder.public_key(public).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=days))
    if constraints:
        builder = builder.add_extension(x509.BasicConstraints(ca, length), critical=True)
    usage = x509.KeyUsage(signs and not ca, not signs, False, False, False, ca, ca, False, False)
    builder = builder.add_extension(usage, critical=True)
    if extended:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
    return builder.sign(by, hashes.SHA256())  # type: ignore[arg-type]


def authority(name: str, by: Authority | None = None, key: object = None, **options: object) -> Authority:
    key = key or ec.generate_private_key(ec.SECP384R1())
    issuer, signer = (name, key) if by is None else (by.name, by.key)
    return Authority(name, key, certificate(name, key, issuer, signer, ca=True, **options))  # type: ignore[arg-type]


def pem(path: Path, *certificates: x509.Certificate) -> Path:
    return write(path, b"".join(each.public_bytes(Encoding.PEM) for each in certificates), 0o644)


def assembly(folder: Path) -> Assembly:
    """The small package of ``packages``, not yet sealed."""
    folder.mkdir(exist_ok=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return Assembly(record(files=()), {name: folder / name for name in FILES})


def signed_package(folder: Path, key: SigningKey | Path, out: str = "pkg", *, tar: bool = False) -> Path:
    """A signed package in ``folder``."""
    parts = folder / f"{out}-parts"
    with opened(key if isinstance(key, SigningKey) else SigningKey(key)) as signer:
        made = signed(assembly(parts).sealed(parts), signer, parts)
    if tar:
        made.write_tar(folder / f"{out}.tar")
        return folder / f"{out}.tar"
    (folder / out).mkdir()
    for name, path in made.files.items():
        os.link(path, folder / out / name)
    return folder / out
