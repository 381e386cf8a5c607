"""Signed statements as bytes: DSSE envelopes, and the sigstore bundles that carry a signature of OpenSSF Model Signing.

No cryptography here. What is read is as strict as can be: each value has one spelling, so that no bit of a signature
file can be changed without notice.

Sources: DSSE 1.0 (``secure-systems-lab/dsse``); in-toto Statement 1.0; sigstore bundle 0.3; OpenSSF Model Signing 1.0.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from trtpipe.delivery.schema import load_object
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: What every payload here is: an in-toto statement.
STATEMENT, STATEMENT_TYPE = "application/vnd.in-toto+json", "https://in-toto.io/Statement/v1"
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_REMEDY = "get the package again from whoever signed it, or sign it again"

T = TypeVar("T")


@dataclass(frozen=True)
class Envelope:
    """A payload and the signature on it.

    Attributes:
        payload: the statement, as it was signed.
        signature: ECDSA over the payload's pre-authentication encoding, in DER.
        key: sha256 of the signer's public key, as ``keys.fingerprint`` has it; empty where certificates say who signed.
        certificates: the signer's, then those that vouch for it, in DER.
    """

    payload: bytes
    signature: bytes
    key: str = ""
    certificates: tuple[bytes, ...] = ()

    @property
    def signed(self) -> bytes:
        """The bytes that the signature is on."""
        return encoded(self.payload)

    def to_bundle(self) -> bytes:
        """As a sigstore bundle, the form of ``model.sig``."""
        chain = {"certificates": [{"rawBytes": _base64(each)} for each in self.certificates]}
        signer = {"x509CertificateChain": chain} if self.certificates else {"publicKey": {"hint": self.key}}
        return _json(
            {
                "mediaType": _BUNDLE,
                "verificationMaterial": {**signer, "tlogEntries": []},
                "dsseEnvelope": self._plain(""),
            }
        )

    def to_dsse(self) -> bytes:
        """As a DSSE envelope alone."""
        return _json(self._plain(self.key))

    def _plain(self, key: str) -> dict[str, Any]:
        signature = {"sig": _base64(self.signature), "keyid": key}
        return {"payload": _base64(self.payload), "payloadType": STATEMENT, "signatures": [signature]}

    @classmethod
    def parse_bundle(cls, data: bytes, path: Path) -> Envelope:
        """What is in the content of ``path``, a sigstore bundle signed with a key or a certificate.

        Raises:
            InputError: it is none; the message names the field.
        """
        reader = _Reader(path)
        fields = reader.fields(load_object(data, path), "", ("mediaType", "verificationMaterial", "dsseEnvelope"))
        if reader.text(fields["mediaType"], "mediaType") != _BUNDLE:
            raise reader.wrong("mediaType", f"not {_BUNDLE}")
        where = "verificationMaterial"
        material = fields[where]
        if isinstance(material, dict) and "certificate" in material:
            raise InputError(
                f"{path}: signed with an online identity (sigstore, keyless)",
                "verify it with model_signing verify sigstore; trtpipe checks keys and certificates",
            )
        kind = "publicKey" if isinstance(material, dict) and "publicKey" in material else "x509CertificateChain"
        signer = reader.fields(material, where, (kind,), {"tlogEntries"})
        if signer.get("tlogEntries", []) != []:
            raise reader.wrong(f"{where}.tlogEntries", "not empty")
        key = ""
        certificates: tuple[bytes, ...] = ()
        if kind == "publicKey":
            key = reader.text(reader.fields(signer[kind], f"{where}.{kind}", ("hint",))["hint"], f"{where}.hint")
        else:
            chain = reader.fields(signer[kind], f"{where}.{kind}", ("certificates",))["certificates"]
            certificates = tuple(
                reader.binary(reader.fields(each, f"{where}.certificates", ("rawBytes",))["rawBytes"], "rawBytes")
                for each in reader.list(chain, f"{where}.certificates")
            )
        payload, signature, _ = reader.envelope(fields["dsseEnvelope"], "dsseEnvelope", ("",))
        return cls(payload, signature, key, certificates)

    @classmethod
    def parse_dsse(cls, data: bytes, path: Path) -> Envelope:
        """What is in the content of ``path``, a DSSE envelope with one signature.

        Raises:
            InputError: it is none; the message names the field.
        """
        payload, signature, key = _Reader(path).envelope(load_object(data, path), "")
        return cls(payload, signature, key)


def encoded(payload: bytes) -> bytes:
    """The pre-authentication encoding of a statement: DSSE's ``PAE``."""
    return b"DSSEv1 %d %s %d %s" % (len(STATEMENT), STATEMENT.encode(), len(payload), payload)


def statement(subjects: Sequence[dict[str, Any]], kind: str, predicate: dict[str, Any]) -> bytes:
    """An in-toto statement: ``predicate``, which is of the type ``kind``, about ``subjects``."""
    return _json({"_type": STATEMENT_TYPE, "subject": list(subjects), "predicateType": kind, "predicate": predicate})


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


class _Reader:
    """Takes plain JSON values apart, and says which one is wrong."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def wrong(self, where: str, problem: str) -> InputError:
        return InputError(f"{self._path}: {where or 'document'}: {problem}", _REMEDY)

    def fields(
        self, value: object, where: str, names: tuple[str, ...], optional: set[str] | frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        """An object that has these fields, perhaps some others, and no more."""
        if not isinstance(value, dict):
            raise self.wrong(where, "not an object")
        for name in names:
            if name not in value:
                raise self.wrong(f"{where}.{name}".lstrip("."), "is missing")
        if unknown := sorted(value.keys() - set(names) - optional):
            raise self.wrong(f"{where}.{unknown[0]}".lstrip("."), "no such field")
        return value

    def text(self, value: object, where: str) -> str:
        return self._typed(value, where, str, "not text")

    def list(self, value: object, where: str) -> list[Any]:
        found = self._typed(value, where, list, "not a list")
        if not found:
            raise self.wrong(where, "empty")
        return found

    def binary(self, value: object, where: str) -> bytes:
        """Base64 in its one spelling: no line breaks, no unused bits, padded."""
        text = self.text(value, where)
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self.wrong(where, "not base64") from error
        if _base64(data) != text:
            raise self.wrong(where, "not base64 in its usual form")
        return data

    def envelope(self, value: object, where: str, keys: tuple[str, ...] = ()) -> tuple[bytes, bytes, str]:
        """Payload, signature, and the name of the key, which is one of ``keys`` where such are given."""
        fields = self.fields(value, where, ("payload", "payloadType", "signatures"))
        if fields["payloadType"] != STATEMENT:
            raise self.wrong(f"{where}.payloadType".lstrip("."), f"not {STATEMENT}")
        signatures = self.list(fields["signatures"], f"{where}.signatures".lstrip("."))
        if len(signatures) > 1:
            raise self.wrong(f"{where}.signatures".lstrip("."), "more than one")
        signature = self.fields(signatures[0], "signatures", ("sig",), {"keyid"})
        key = self.text(signature.get("keyid", ""), "signatures.keyid")
        if keys and key not in keys:
            raise self.wrong("signatures.keyid", "not empty")
        return self.binary(fields["payload"], "payload"), self.binary(signature["sig"], "signatures.sig"), key

    def _typed(self, value: object, where: str, kind: type[T], problem: str) -> T:
        if not isinstance(value, kind):
            raise self.wrong(where, problem)
        return value
