"""DSSE envelopes and sigstore bundles as bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trtpipe.delivery.envelope import Envelope, encoded
from trtpipe.errors import InputError

WHERE = Path("model.sig")


def test_the_encoding_is_that_of_the_specification() -> None:
    """DSSE 1.0, with the type of in-toto's statements: ``DSSEv1 SP LEN(type) SP type SP LEN(body) SP body``."""
    assert encoded(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"
    assert encoded("ä".encode()) == b"DSSEv1 28 application/vnd.in-toto+json 2 \xc3\xa4"


@pytest.mark.parametrize("envelope", [Envelope(b"{}", b"\x01", "ab"), Envelope(b"{}", b"\x01", "", (b"a", b"b"))])
def test_a_bundle_is_read_as_it_was_written(envelope: Envelope) -> None:
    assert Envelope.parse_bundle(envelope.to_bundle(), WHERE) == envelope


def test_an_envelope_is_read_as_it_was_written() -> None:
    envelope = Envelope(b"{}", b"\x01", "ab")
    assert Envelope.parse_dsse(envelope.to_dsse(), WHERE) == envelope
    assert json.loads(envelope.to_dsse())["signatures"] == [{"keyid": "ab", "sig": "AQ=="}]


def test_a_keyless_signature_is_refused_by_name() -> None:
    bundle = json.loads(Envelope(b"{}", b"\x01", "ab").to_bundle())
    bundle["verificationMaterial"] = {"certificate": {"rawBytes": "AA=="}, "tlogEntries": []}
    with pytest.raises(InputError, match="online identity") as caught:
        Envelope.parse_bundle(json.dumps(bundle).encode(), WHERE)
    assert "model_signing" in caught.value.remedy


@pytest.mark.parametrize("payload", ["e30", "e30=\\n", "e31=", "e30= ", "!!!!", "e3\\u00e40="])
def test_only_one_spelling_of_base64_is_taken(payload: str) -> None:
    text = Envelope(b"{}", b"\x01", "ab").to_bundle().decode().replace('"e30="', f'"{payload}"')
    with pytest.raises(InputError, match="payload: not base64"):
        Envelope.parse_bundle(text.encode(), WHERE)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"null", b"\xff", b'{"mediaType": 1, "mediaType": 1}', b"[" * 100_000]
)
def test_what_is_no_bundle(data: bytes) -> None:
    with pytest.raises(InputError, match=r"model\.sig"):
        Envelope.parse_bundle(data, WHERE)
    with pytest.raises(InputError, match=r"model\.sig"):
        Envelope.parse_dsse(data, WHERE)
