"""Addresses of shared stores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from trtpipe.config.redaction import without_secrets
from trtpipe.config.requirements import install
from trtpipe.config.settings import environment
from trtpipe.errors import HostError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.remote.bucket import Bucket

_SCHEMES = ("s3", "gs", "az", "file")
_FORM = "give s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER"
#: Of variables that the clouds' libraries read, and those of them that name an S3 server.
_CLOUDS = ("AWS_", "AZURE_", "GOOGLE_")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_PREFIX = re.compile(r"[A-Za-z0-9._/-]*")


def check_url(url: str) -> str:
    """The address of a store in its plain form.

    Raises:
        InputError: it is none, or holds credentials, which every list of processes would show.

    Example:
        >>> check_url("s3://builds/trtpipe/")
        's3://builds/trtpipe'
    """
    shown = _shown(url)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"{shown!r} is no address of a store", _FORM) from error
    if parts.scheme not in _SCHEMES:
        raise InputError(f"{shown!r} is no address of a store", _FORM)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InputError(
            f"{shown!r}: the address of a store holds no credentials and no options",
            "put credentials into the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or a role",
        )
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        if parts.netloc not in ("", "localhost") or not folder.is_absolute():
            raise InputError(f"{shown!r} is no absolute path", "give file:///FOLDER, with three slashes")
        return f"file://{folder}"
    prefix = parts.path.strip("/")
    if not parts.netloc or not _PREFIX.fullmatch(prefix) or "//" in prefix or ".." in prefix.split("/"):
        raise InputError(f"{shown!r} is no address of a store", _FORM)
    return f"{parts.scheme}://{parts.netloc}/{prefix}".rstrip("/")


def _shown(url: str) -> str:
    """An address for a message; of one that may hold a secret, wherever its marks are, only the scheme."""
    scheme, _, rest = url.partition("://")
    if re.search(r"[@:?#]", rest) or not rest:
        return f"{scheme}://..." if scheme.lower() in _SCHEMES else "..."
    return without_secrets(url)[:200]


def check_environment(variables: Mapping[str, str]) -> None:
    """Refuse what the clouds' variables cannot hold, on which the library that reads them would abort.

    Raises:
        InputError: a variable holds a control character, such as the line break of a file, or an endpoint is no address
            of a server, or holds credentials. No value is shown.
    """
    for name, value in variables.items():
        if name.startswith(_CLOUDS) and not value.isprintable():
            raise InputError(
                f"environment variable {name} holds a line break or another control character", f"correct {name}"
            )
    for name in filter(variables.get, _ENDPOINTS):
        try:
            parts = urlsplit(variables[name])
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            sound = False
        if not sound or "@" in parts.netloc or parts.query or parts.fragment:
            raise InputError(
                f"environment variable {name} is no address of a server",
                f"set {name} to http://HOST:PORT or https://HOST, without credentials",
            )


def open_bucket(url: str, patience: float = 60.0) -> Bucket:
    """The bucket at an address; nothing is asked of it yet.

    Args:
        patience: for how many seconds a request is tried again while the store cannot be reached.

    Raises:
        InputError: see ``check_url`` and ``check_environment``.
        HostError: the package that speaks to object stores is not installed.
    """
    plain = check_url(url)
    if plain.startswith("file://"):
        from trtpipe.remote.folder import FolderBucket

        return FolderBucket(Path(plain.removeprefix("file://")))
    try:
        from trtpipe.remote.objects import ObjectBucket
    except ModuleNotFoundError as error:
        raise HostError(
            f"{plain}: the package 'obstore' is missing, which speaks to object stores",
            f"{install('store')}; or use a folder: file:///FOLDER",
        ) from error
    check_environment(environment())
    return ObjectBucket(plain, patience)
