"""Addresses of shared stores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from trtpipe.config.redaction import without_secrets
from trtpipe.errors import HostError, InputError

if TYPE_CHECKING:
    from trtpipe.remote.bucket import Bucket

_SCHEMES = ("s3", "gs", "az", "file")
_FORM = "give s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER"
_PREFIX = re.compile(r"[A-Za-z0-9._/-]*")


def check_url(url: str) -> str:
    """The address of a store in its plain form.

    Raises:
        InputError: it is none, or holds credentials, which every list of processes would show.

    Example:
        >>> check_url("s3://builds/trtpipe/")
        's3://builds/trtpipe'
    """
    shown = without_secrets(url)[:200]
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


def open_bucket(url: str, patience: float = 60.0) -> Bucket:
    """The bucket at an address; nothing is asked of it yet.

    Args:
        patience: for how many seconds a request is tried again while the store cannot be reached.

    Raises:
        InputError: see ``check_url``.
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
            "pip install 'trtpipe[store]', or use a folder: file:///FOLDER",
        ) from error
    return ObjectBucket(plain, patience)
