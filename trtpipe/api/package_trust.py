"""What a package proves: ``verify_package``. It needs neither pydantic nor onnx, as the modules that read packages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtpipe.api.remedies import explained
from trtpipe.config.paths import path_of, path_or_none
from trtpipe.delivery import signing
from trtpipe.delivery.attestation import read_provenance
from trtpipe.delivery.encryption import Identities
from trtpipe.delivery.policy import TrustPolicy
from trtpipe.delivery.reader import Package
from trtpipe.delivery.record import SIGNATURE
from trtpipe.errors import InputError
from trtpipe.summary import Summarized, Summary

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.config.paths import PathLike
    from trtpipe.delivery.attestation import AttestedProvenance
    from trtpipe.delivery.record import Model
    from trtpipe.delivery.signing import Signatory


@dataclass(frozen=True, repr=False)
class VerifiedPackage(Summarized):
    """A package that is whole, and who vouches for it.

    Attributes:
        path: its folder, or its ``.tar``.
        model: what its ``model.json`` says.
        signed: whether there is a signature, by whomever.
        signatory: who signed; ``None`` where the signature was not checked, because no trusted signer was named.
        provenance: where the build comes from; ``None`` where the package does not say.
        decrypted: whether the given identity opened every encrypted file.
    """

    path: Path
    model: Model
    signed: bool
    signatory: Signatory | None
    provenance: AttestedProvenance | None
    decrypted: bool = False

    @property
    def summary(self) -> Summary:
        """Who signed, the model, and its files."""
        signer = "signature not checked" if self.signed else "not signed"
        if self.signatory is not None:
            signer = f"signed by {self.signatory.name}"
        rows = tuple((each.name, str(each.size), each.sha256) for each in self.model.files)
        said = f"{self.path}: whole, {signer}: {self.model.name} {self.model.version}, {self.model.verdict.headline}"
        return Summary(said, ("file", "bytes", "sha256"), rows)


@explained
def verify_package(
    package: PathLike,
    *,
    policy: TrustPolicy | PathLike | None = None,
    key: PathLike | None = None,
    ca: PathLike | None = None,
    identity: PathLike | None = None,
) -> VerifiedPackage:
    """Check that a package is whole and unchanged, that someone trusted signed it, and that it is what a policy asks.

    Args:
        package: its folder, or its ``.tar``.
        policy: whom to trust, and what to ask for: a TOML file (docs/signing.md). Or one of the next two.
        key: trust who has the private half of this public key (PEM).
        ca: trust whom this CA (PEM) has given a certificate for signing.
        identity: also decrypt every encrypted file, in memory, with the age identities (or SSH key) in this file.

    Without ``policy``, ``key`` and ``ca`` a signature has to be whole and about this package, but whose it is is not
    looked at, and so anybody may have made the package.

    Raises:
        InputError: the package is not whole, not signed by a trusted signer, changed since, or not as the policy asks.
        RecipeError: the policy is no TOML.
        HostError: a package that this needs is not installed.

    Example:
        >>> _ = trtpipe.make_package("out", "package")
        >>> trtpipe.verify_package("package").signed
        False
        >>> trtpipe.verify_package("package", key="release.pub").signatory.name  # doctest: +SKIP
        'release.pub'
    """
    trusted = _policy(policy, path_or_none(key, "key"), path_or_none(ca, "ca"))
    identities = None if identity is None else Identities.load(path_of(identity, "identity"))
    found = Package.opened(path_of(package, "package")).with_identities(identities)
    signatory = None if trusted is None else signing.verify(found, trusted)
    found.verify()
    if trusted is None:
        signing.check(found)
    inside = [(each, file.name) for each in found.members or (found,) for file in each.model.encrypted]
    if identities is not None:
        for each, name in inside:
            each.read(name)
    return VerifiedPackage(
        path=found.path,
        model=found.model,
        signed=SIGNATURE in found.names,
        signatory=signatory,
        provenance=read_provenance(found, None if signatory is None else signatory.public_key),
        decrypted=identities is not None and bool(inside),
    )


def _policy(policy: TrustPolicy | PathLike | None, key: Path | None, ca: Path | None) -> TrustPolicy | None:
    if policy is None:
        return TrustPolicy.of(key, ca) if key is not None or ca is not None else None
    if key is not None or ca is not None:
        raise InputError("policy: given beside a key or a CA", "name the key or CA in the policy")
    return policy if isinstance(policy, TrustPolicy) else TrustPolicy.load(path_of(policy, "policy"))
