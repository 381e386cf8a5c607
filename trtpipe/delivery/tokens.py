"""Keys in PKCS#11 tokens (security modules, smart cards), named by ``pkcs11:`` URIs (RFC 7512).

The key never leaves its token: that signs, and this process gets the signature.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_to_bytes

from trtpipe.config.requirements import require
from trtpipe.config.safe_files import read_secret
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCHEME = "pkcs11:"
_EXAMPLE = "pkcs11:token=release;object=signing?module-path=/usr/lib/softhsm/libsofthsm2.so"
_PATH = ("token", "object", "id", "serial", "type")
_QUERY = ("module-path", "pin-source")


@dataclass(frozen=True)
class TokenUri:
    """What a ``pkcs11:`` URI says.

    Attributes:
        module: library of the token's maker.
        token, serial: label and serial number of the token; empty: any.
        object, id: label and id of the key; one of them is given.
        pin_source: a file that holds the PIN; ``None`` where it is asked for.
    """

    module: Path
    token: str
    serial: str
    object: str
    id: bytes
    pin_source: Path | None

    @classmethod
    def parse(cls, uri: str) -> TokenUri:
        """Read a URI.

        Raises:
            InputError: an attribute is unknown, missing or there twice, or the PIN is in it.
        """
        path, _, query = uri.removeprefix(SCHEME).partition("?")
        found: dict[str, str] = {}
        for part in [each for each in (*path.split(";"), *query.split("&")) if each]:
            name, equals, value = part.partition("=")
            if name == "pin-value":
                raise InputError(
                    "the PIN is in the pkcs11: URI, where every process of this machine can read it",
                    "give it with --sign-password-env NAME, or a file with pin-source=",
                )
            if name not in (*_PATH, *_QUERY) or not equals or name in found:
                known = ", ".join((*_PATH, *_QUERY))
                raise InputError(f"{_shown(uri)}: {name:.40}: unknown or there twice; known are {known}", _as(_EXAMPLE))
            found[name] = value
        if "module-path" not in found or not {"object", "id"} & set(found):
            raise InputError(f"{_shown(uri)}: needs module-path, and object or id", _as(_EXAMPLE))
        source = unquote(found.get("pin-source", "")).removeprefix("file:")
        return cls(
            module=Path(unquote(found["module-path"])),
            token=unquote(found.get("token", "")),
            serial=unquote(found.get("serial", "")),
            object=unquote(found.get("object", "")),
            id=unquote_to_bytes(found.get("id", "")),
            pin_source=Path(source) if source else None,
        )


@contextmanager
def token_key(uri: str, password: Callable[[], str] | None) -> Iterator[tuple[Callable[[bytes], bytes], bytes, str]]:
    """A function that signs a digest with the key that ``uri`` names, its public key in DER, and what errors call it.

    Args:
        password: gives the token's PIN, where the URI names no file that holds it.

    Raises:
        InputError: there is no such module, token or key, or the PIN is wrong.
        HostError: python-pkcs11 is not installed.
    """
    wanted = TokenUri.parse(uri)
    name = _shown(uri)
    require("pkcs11", "signing with a token", "pkcs11", "python-pkcs11")
    import pkcs11
    from pkcs11.util.ec import encode_ec_public_key, encode_ecdsa_signature

    try:
        token = _token(pkcs11, wanted, name)
        with token.open(user_pin=_pin(wanted, name, password)) as session:
            key = _object(session, wanted, pkcs11.ObjectClass.PRIVATE_KEY, name)
            public = _object(session, wanted, pkcs11.ObjectClass.PUBLIC_KEY, name)

            def sign(digest: bytes) -> bytes:
                raw = key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA)
                return bytes(encode_ecdsa_signature(raw))

            yield sign, bytes(encode_ec_public_key(public)), name
    except pkcs11.exceptions.PinIncorrect:
        raise InputError(f"{name}: the PIN is wrong", "give the right PIN; a token locks itself after a few") from None
    except pkcs11.exceptions.PKCS11Error as error:
        reason = type(error).__name__
        raise InputError(f"{name}: the token refuses: {reason}", "see the manual of the token's maker") from error


def _token(pkcs11: Any, wanted: TokenUri, name: str) -> Any:
    try:
        library = pkcs11.lib(str(wanted.module))
    except (OSError, RuntimeError, pkcs11.exceptions.PKCS11Error) as error:
        raise InputError(
            f"{wanted.module}: not a PKCS#11 module that can be loaded", "give the library of the token's maker"
        ) from error
    found = [
        token
        for slot in library.get_slots(token_present=True)
        for token in [slot.get_token()]
        if wanted.token in ("", token.label)
        and wanted.serial.encode() in (b"", token.serial)
        and pkcs11.TokenFlag.TOKEN_INITIALIZED in token.flags
    ]
    if len(found) != 1:
        raise InputError(f"{name}: {len(found) or 'no'} such tokens", "name one with token= or serial=")
    return found[0]


def _object(session: Any, wanted: TokenUri, kind: Any, name: str) -> Any:
    import pkcs11

    attributes: dict[Any, Any] = {pkcs11.Attribute.CLASS: kind}
    if wanted.object:
        attributes[pkcs11.Attribute.LABEL] = wanted.object
    if wanted.id:
        attributes[pkcs11.Attribute.ID] = wanted.id
    found = list(session.get_objects(attributes))
    if len(found) != 1:
        word = kind.name.lower().replace("_", " ")
        raise InputError(f"{name}: {len(found) or 'no'} such {word}s in the token", "name one with object= or id=")
    return found[0]


def _pin(wanted: TokenUri, name: str, password: Callable[[], str] | None) -> str:
    if wanted.pin_source is not None:
        return read_secret(wanted.pin_source, "a PIN that only its owner can read").decode("utf-8", "replace").strip()
    if password is None:
        raise InputError(f"{name}: the token wants its PIN", "give it with --sign-password-env NAME, or pin-source=")
    return password()


def _shown(uri: str) -> str:
    """The URI without its query: that is about this machine."""
    return uri.partition("?")[0]


def _as(example: str) -> str:
    return f"write it as {example}"
