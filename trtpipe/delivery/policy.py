"""Whom a machine trusts to sign packages, and what it asks of them: a TOML file, or a key or CA alone.

::

    [[signers]]                    # any one of these
    name = "release"               # what reports call it
    key = "release.pub"            # its public key (PEM), beside this file

    [[signers]]
    ca = "company-ca.pem"          # or: a certificate that this CA issued
    subject = "CN=Model release,O=Example"   # to this subject alone

    [require]                      # all of these; what is left out is not asked for
    precision = ["int8", "fp16"]
    verdict = ["passed"]
    min_samples = 500
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trtpipe.config.formats import Precision
from trtpipe.config.requirements import require
from trtpipe.config.safe_files import read_trusted
from trtpipe.config.toml_text import parse_toml
from trtpipe.config.units import suggestion
from trtpipe.delivery.schema import read_record
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509 import Certificate

    from trtpipe.delivery.record import Model

_REMEDY = "see docs/signing.md for what a policy can say"
_NUMBERS = re.compile(r"\d{1,9}(?:\.\d{1,9}){0,7}")
Outcome = Literal["passed", "failed", "not judged"]


@dataclass(frozen=True)
class Requirements:
    """What a package has to be, besides signed.

    Attributes:
        name: of the model.
        min_version: of the model: dotted numbers. An older package that was signed once is refused.
        precision: one of these is what the build was asked for.
        verdict, latency: one of these is what the build's verdict says, and what its latency gate says.
        data: what outputs were compared on.
        min_samples: on how many samples at least.
        provenance: whether there has to be a signed statement of where it comes from.
        clean_source: whether that has to name a git commit, of a repository without uncommitted changes.
        encrypted: whether plans and graph have to be encrypted.
        reference: whether there have to be reference inputs for the self-test.
    """

    name: str = ""
    min_version: str = ""
    precision: tuple[str, ...] = ()
    verdict: tuple[Outcome, ...] = ()
    latency: tuple[Outcome, ...] = ()
    data: tuple[Literal["real", "random", "none"], ...] = ()
    min_samples: int = 0
    provenance: bool = False
    clean_source: bool = False
    encrypted: bool = False
    reference: bool = False

    def __post_init__(self) -> None:
        known = [str(each) for each in Precision]
        if unknown := [each for each in self.precision if each not in known]:
            raise ValueError(f"precision: unknown: {unknown[0]!r}; {suggestion(unknown[0], known, 'there are')}")
        if self.min_version and not _NUMBERS.fullmatch(self.min_version):
            raise ValueError(f"min_version: {self.min_version!r} is no version of dotted numbers")
        if self.min_samples < 0:
            raise ValueError("min_samples: below 0")

    def unmet(self, model: Model) -> Iterator[str]:
        """What a package lacks, a sentence each; provenance is looked at by ``attestation``."""
        verdict = model.verdict
        if self.name and model.name != self.name:
            yield f"it is {model.name!r}, not {self.name!r}"
        if self.min_version and _numbers(model.version) < _numbers(self.min_version):
            yield f"version {model.version or '(none)'} is older than {self.min_version}"
        for word, value, allowed in (
            ("precision", model.precision, self.precision),
            ("verdict", verdict.outcome, self.verdict),
            ("latency gate", verdict.latency, self.latency),
            ("data of the comparison", verdict.data, self.data),
        ):
            if allowed and value not in allowed:
                yield f"{word}: {value}, not {' or '.join(allowed)}"
        if verdict.samples < self.min_samples:
            yield f"verified on {verdict.samples} samples, not {self.min_samples}"
        if self.encrypted and not _weights(model) <= {name for name in _weights(model) if model.is_encrypted(name)}:
            yield "plans and graph are not encrypted"
        if self.reference and model.reference is None:
            yield "it has no reference inputs"


@dataclass(frozen=True)
class TrustedSigner:
    """One who may sign: with this key, or with a certificate of this CA.

    Attributes:
        name: what reports call it.
        subject: the certificate's subject (RFC 4514); empty: any.
    """

    name: str
    key: ec.EllipticCurvePublicKey | None = None
    authorities: tuple[Certificate, ...] = ()
    subject: str = ""


@dataclass(frozen=True)
class TrustPolicy:
    """Whom to trust, and what to ask for.

    Attributes:
        signers: any one of these; there is at least one.
        require: what the package has to be.
        unexpired: whether a signer's certificate has to be valid today. A signature carries no trusted time: without
            this, one that has expired since is taken, as OpenSSF Model Signing does.
    """

    signers: tuple[TrustedSigner, ...]
    require: Requirements = Requirements()
    unexpired: bool = False

    @classmethod
    def load(cls, path: Path) -> TrustPolicy:
        """Read a policy, and the keys and certificates that it names; paths in it start from its folder.

        Raises:
            InputError: a key is unknown or of the wrong kind, no signer is named, a key cannot be read, or others can
                write one of these files.
            HostError: the package ``cryptography`` is not installed.
        """
        content = parse_toml(read_trusted(path, "a trust policy in TOML"), path)
        written = read_record(_PolicyFile, content, path, _REMEDY)
        if not written.signers:
            raise InputError(f"{path}: signers: empty, so no signer is trusted", "name a key or a CA under [[signers]]")
        for where in _empty(content, ""):
            raise InputError(
                f"{path}: {where}: empty, so nothing would be asked for", "leave it out to ask for nothing"
            )
        return cls(
            tuple(_signer(each, path, index) for index, each in enumerate(written.signers)),
            written.require,
            written.unexpired,
        )

    @classmethod
    def of(cls, key: Path | None = None, ca: Path | None = None) -> TrustPolicy:
        """Trust who has the private half of ``key``, or a certificate that ``ca`` issued.

        Raises:
            InputError: neither is given, or one cannot be read.
        """
        given = [_SignerEntry(key=str(key))] if key is not None else []
        given += [_SignerEntry(ca=str(ca))] if ca is not None else []
        if not given:
            raise InputError("no signer to trust", "give a public key, a CA or a policy")
        return cls(tuple(_signer(each, Path(), 0) for each in given))


@dataclass(frozen=True)
class _SignerEntry:
    """One ``[[signers]]`` of the file."""

    name: str = ""
    key: str = ""
    ca: str = ""
    subject: str = ""

    def __post_init__(self) -> None:
        if bool(self.key) == bool(self.ca):
            raise ValueError("needs key or ca, one of them")
        if self.subject and not self.ca:
            raise ValueError("subject: goes with ca; a key has none")


@dataclass(frozen=True)
class _PolicyFile:
    """The file as it stands."""

    signers: tuple[_SignerEntry, ...]
    require: Requirements = Requirements()
    unexpired: bool = False


def _empty(value: object, where: str) -> Iterator[str]:
    """Where a file says nothing in place of leaving it out: it may be what a template made of an unset variable."""
    if value in ("", []):
        yield where
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _empty(item, f"{where}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _empty(item, f"{where}[{index}]")


def _signer(entry: _SignerEntry, policy: Path, index: int) -> TrustedSigner:
    require("cryptography", "checking signatures", "trust")
    from trtpipe.delivery import keys

    name = entry.name or Path(entry.key or entry.ca).name
    if entry.key:
        return TrustedSigner(name, keys.read_public_key(policy.parent / entry.key))
    return TrustedSigner(name, None, keys.read_certificates(policy.parent / entry.ca), entry.subject)


def _numbers(version: str) -> tuple[int, ...]:
    """1.10 is later than 1.9, and 1.0 is 1; what is no such version is earlier than all."""
    parts = [int(part) for part in version.split(".")] if _NUMBERS.fullmatch(version) else [-1]
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)


def _weights(model: Model) -> set[str]:
    graph = () if model.graph is None else (model.graph.file, *model.graph.data)
    return {*(plan.file for plan in model.plans), *graph}
