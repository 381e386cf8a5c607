"""Signatures of packages, in the form of OpenSSF Model Signing 1.0: ``model_signing verify`` checks what is signed
here, and ``verify`` checks what ``model_signing sign`` signed with a key or a certificate.

``model.sig`` is a sigstore bundle: an ECDSA signature on a statement that lists the sha256 of every file. ``verify``
compares these with the digests that ``model.json`` states, and needs the package ``cryptography`` alone; content is
compared with ``model.json`` by ``reader.Package``, which hands out nothing else. So after ``verify`` every byte that a
package gives is one that was signed.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe.config.requirements import require
from trtpipe.delivery import attestation
from trtpipe.delivery.envelope import STATEMENT_TYPE, Envelope, statement
from trtpipe.delivery.record import MODEL, SIGNATURE, UNLISTED
from trtpipe.delivery.schema import load_object
from trtpipe.digest import sha256_file
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509 import Certificate

    from trtpipe.delivery.assembly import Assembly
    from trtpipe.delivery.keys import Signer
    from trtpipe.delivery.policy import Requirements, TrustedSigner, TrustPolicy
    from trtpipe.delivery.reader import Package

_PREDICATE = "https://model_signing/signature/v1.0"
_UNTRUSTED = "get the package from whom you trust, or the right key: what is inside may be anybody's"
_AGAIN = "get the package again from whoever signed it"


@dataclass(frozen=True)
class SigningKey:
    """What a package is signed with.

    Attributes:
        key: a PEM file with an EC private key (P-256, P-384, P-521) that only its owner can read; or the ``pkcs11:``
            URI of one in a token.
        certificate: a PEM file: the certificate of this key, then those between it and the CA; ``None`` to sign as the
            bare key.
        password: of the file, or PIN of the token; or a function that gives it, called only where it is needed.

    Example:
        >>> trtpipe.SigningKey("signing.pem", certificate="chain.pem")
        SigningKey(key='signing.pem', certificate='chain.pem')
    """

    key: str | os.PathLike[str]
    certificate: str | os.PathLike[str] | None = None
    password: str | Callable[[], str] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Signatory:
    """Who signed a package, as a policy knows them.

    Attributes:
        name: in the policy.
        key: sha256 of the public key.
        subject, issuer: of the certificate; empty for a bare key.
        expires: last day on which the certificate is valid, in ISO 8601; empty for a bare key.
        public_key: the key itself.
    """

    name: str
    key: str
    subject: str = ""
    issuer: str = ""
    expires: str = ""
    public_key: ec.EllipticCurvePublicKey | None = field(default=None, repr=False, compare=False)


@contextmanager
def opened(signing: SigningKey) -> Iterator[Signer]:
    """The key, ready to sign with.

    Raises:
        InputError: it cannot be used, or the certificate is not its own or may not sign.
        HostError: a package that this needs is not installed.
    """
    require("cryptography", "signing", "trust")
    from trtpipe.delivery import keys

    password = signing.password
    given = (lambda: password) if isinstance(password, str) else password
    with keys.private_key(os.fspath(signing.key), given) as key:
        chain: tuple[Certificate, ...] = ()
        if signing.certificate is not None:
            path = Path(signing.certificate)
            chain = keys.read_certificates(path)
            if chain[0].public_key() != key.public:
                raise InputError(
                    f"{path}: the first certificate is not that of the key", "put the certificate of this key first"
                )
            keys.check_chain(chain, chain[-1:], str(path))
        yield keys.Signer(key, chain)


def signed(assembly: Assembly, signer: Signer, folder: Path) -> Assembly:
    """A sealed package with the signature on all its files, ``model.json`` among them, written into ``folder``."""
    digests = {file.name: file.sha256 for file in assembly.model.files}
    digests[MODEL] = sha256_file(assembly.files[MODEL])
    path = folder / SIGNATURE
    path.write_bytes(signer.sign(_listed(digests, assembly.model.name)).to_bundle())
    return replace(assembly, files={**assembly.files, SIGNATURE: path})


def verify(package: Package, policy: TrustPolicy) -> Signatory:
    """Whether someone whom ``policy`` trusts has signed this very package, and it is what the policy asks for.

    The content of files is not read here: ``Package.read`` and ``Package.copy`` compare what they hand out with the
    digests that this function has compared with the signature; ``Package.verify`` does so for all files at once.

    Returns:
        Who signed.

    Raises:
        InputError: it is not signed, not by a trusted signer, changed since, or not as the policy asks.
        HostError: the package ``cryptography`` is not installed.

    Example:
        >>> verify(Package.opened(Path("model.tar")), TrustPolicy.load(Path("policy.toml"))).name
        'release'
    """
    require("cryptography", "checking signatures", "trust")
    path = package.path / SIGNATURE
    data = package.unlisted(SIGNATURE)
    if data is None:
        raise InputError(f"{package.path}: not signed: there is no {SIGNATURE}", _UNTRUSTED)
    envelope = Envelope.parse_bundle(data, path)
    signatory = _signatory(envelope, policy, path)
    _compare(package, _digests(envelope.payload, path))
    if unmet := list(_unmet(package, policy.require, signatory)):
        raise InputError(
            f"{package.path}: signed by {signatory.name}, but not as the policy asks: {'; '.join(unmet)}",
            "ask its author for one that meets the policy",
        )
    return signatory


def _unmet(package: Package, asked: Requirements, signatory: Signatory) -> Iterator[str]:
    """What a policy asks for and is not so: of the name and version of a package, and of every model in it."""
    if not package.model.members:
        yield from asked.unmet(package.model)
        if asked.provenance or asked.clean_source:
            yield from attestation.unmet(asked, attestation.read_provenance(package, signatory.public_key))
        return
    from trtpipe.delivery.policy import Requirements

    yield from Requirements(name=asked.name, min_version=asked.min_version).unmet(package.model)
    for member, inside in zip(package.model.members, package.members, strict=True):
        for words in _unmet(inside, replace(asked, name="", min_version=""), signatory):
            yield f"{member.name}: {words}"


def check(package: Package) -> None:
    """Check what can be said of a signature without knowing whose it is: that it is whole, and about this very package.

    Raises:
        InputError: there is one that is not.
    """
    data, path = package.unlisted(SIGNATURE), package.path / SIGNATURE
    if data is not None:
        _compare(package, _digests(Envelope.parse_bundle(data, path).payload, path))
    for member in package.members:
        check(member)


def _listed(digests: Mapping[str, str], name: str) -> bytes:
    """The statement of OpenSSF Model Signing."""
    names = sorted(digests)
    root = hashlib.sha256(b"".join(bytes.fromhex(digests[file]) for file in names)).hexdigest()
    serialization = {
        "method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": sorted(UNLISTED - {MODEL}),
    }  # fmt: skip
    resources = [{"name": file, "algorithm": "sha256", "digest": digests[file]} for file in names]
    predicate: dict[str, Any] = {"serialization": serialization, "resources": resources}
    return statement([{"name": name, "digest": {"sha256": root}}], _PREDICATE, predicate)


def _digests(payload: bytes, path: Path) -> dict[str, str]:
    """File -> sha256, as it was signed.

    Raises:
        InputError: it is another statement, or lists files in another way.
    """
    wrong = InputError(
        f"{path}: not a signature of OpenSSF Model Signing 1.0 over the sha256 of files",
        "sign the package with trtpipe package make --sign, or with model_signing and its defaults",
    )
    content = load_object(payload, path)
    if content.get("_type") != STATEMENT_TYPE or content.get("predicateType") != _PREDICATE:
        raise wrong
    try:
        method = content["predicate"]["serialization"]
        resources = [(each["name"], each["algorithm"], each["digest"]) for each in content["predicate"]["resources"]]
        (subject,) = content["subject"]
        root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, _, digest in resources)).hexdigest()
        right = method["method"] == "files" and all(algorithm == "sha256" for _, algorithm, _ in resources)
        right = right and subject["digest"] == {"sha256": root}
        digests = {name: digest for name, _, digest in resources}
        if not right or len(digests) < len(resources):
            raise wrong
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise wrong from error
    return digests


def _signatory(envelope: Envelope, policy: TrustPolicy, path: Path) -> Signatory:
    """Who signed.

    Raises:
        InputError: no signer whom the policy trusts.
    """
    from trtpipe.delivery import keys

    if envelope.certificates:
        return _certified(envelope, policy, path)
    for signer in policy.signers:
        if signer.key is None or keys.fingerprint(signer.key) != envelope.key:
            continue
        if not keys.is_signed(envelope.signed, envelope.signature, signer.key):
            raise InputError(f"{path}: the signature is not that of {signer.name} on this content", _AGAIN)
        return Signatory(signer.name, envelope.key, public_key=signer.key)
    trusted = ", ".join(signer.name for signer in policy.signers)
    raise InputError(f"{path}: signed with the key {envelope.key:.64}, which is not that of {trusted}", _UNTRUSTED)


def _certified(envelope: Envelope, policy: TrustPolicy, path: Path) -> Signatory:
    from trtpipe.delivery import keys

    chain = keys.parse_chain(envelope.certificates, str(path))
    leaf = chain[0]
    subject = leaf.subject.rfc4514_string()
    signer = _authorized(chain, subject, policy, path)
    key = keys.curve_checked(leaf.public_key(), f"{path}: {subject}")
    if not keys.is_signed(envelope.signed, envelope.signature, key):
        raise InputError(f"{path}: the signature is not that of {subject} on this content", _AGAIN)
    expires = leaf.not_valid_after_utc.isoformat()
    return Signatory(signer.name, keys.fingerprint(key), subject, leaf.issuer.rfc4514_string(), expires, key)


def _authorized(chain: tuple[Certificate, ...], subject: str, policy: TrustPolicy, path: Path) -> TrustedSigner:
    """The first entry of the policy that this chain satisfies; else it raises what the last one lacks."""
    from trtpipe.delivery import keys

    trusted = ", ".join(signer.name for signer in policy.signers)
    refusal = InputError(f"{path}: signed by {subject}, whom none of {trusted} vouches for", _UNTRUSTED)
    for signer in policy.signers:
        if not signer.authorities:
            continue
        if signer.subject not in ("", subject):
            refusal = InputError(f"{path}: signed by {subject}, not by {signer.subject}", _UNTRUSTED)
            continue
        try:
            keys.check_chain(chain, signer.authorities, str(path))
            if policy.unexpired:
                keys.check_chain(chain, signer.authorities, str(path), datetime.now(timezone.utc))
        except InputError as error:
            refusal = error
            continue
        return signer
    raise refusal


def _compare(package: Package, signed: Mapping[str, str]) -> None:
    """Raise InputError unless the files of a package are those that were signed, by name and digest."""
    stated = {file.name: file.sha256 for file in package.model.files}
    stated[MODEL] = hashlib.sha256(package.index).hexdigest()
    for name in sorted((UNLISTED - {MODEL}) & signed.keys() & package.names):
        stated[name] = hashlib.sha256(package.unlisted(name) or b"").hexdigest()
    if added := sorted((package.names - UNLISTED | stated.keys()) - signed.keys()):
        raise InputError(f"{package.path / added[0]}: not signed: it was added later", _AGAIN)
    if missing := sorted(signed.keys() - stated.keys()):
        raise InputError(f"{package.path / missing[0]}: signed, but not there", _AGAIN)
    for name, digest in stated.items():
        if signed[name] != digest:
            raise InputError(f"{package.path / name}: changed since the package was signed", _AGAIN)
