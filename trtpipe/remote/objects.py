"""A bucket of S3, Google Cloud Storage or Azure, through obstore, which finds its credentials itself.

What the store answers is never shown as it is: an error of S3 repeats the request that was signed.
"""

from __future__ import annotations

import hashlib
import random
import re
import secrets
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore import exceptions
from obstore.store import from_url

from trtpipe.errors import HostError
from trtpipe.remote.bucket import Blob, Bucket, Denied, Listed, Unreachable
from trtpipe.remote.folder import writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

#: The least size of a part of S3 is 5 MiB, and there are 10,000 at most.
_PART, _MOST_PARTS = 16 << 20, 9_000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_CODE = re.compile(r"<Code>(\w{1,60})</Code>|\(code: (\w{1,60})\)")
_STATUS = re.compile(r"status code: (\d{3})")
#: What a store calls it -> what is wrong, what to do; these do not pass by waiting.
_REFUSALS = {
    "RequestTimeTooSkewed": ("this machine's clock differs too much from the store's", "set the clock (NTP)"),
    "ExpiredToken": ("the credentials have expired", "get new ones"),
    "TokenRefreshRequired": ("the credentials have expired", "get new ones"),
    "InvalidAccessKeyId": ("the access key is not known there", "correct the credentials"),
    "SignatureDoesNotMatch": ("the secret does not fit the access key", "correct the credentials"),
    "AccessDenied": ("these credentials do not allow it", "use others, or ask for the privileges in docs/farm.md"),
    "NoSuchBucket": ("there is no such bucket", "correct the address, or create the bucket"),
    "InvalidBucketName": ("there is no such bucket", "correct the address"),
}
#: Where the roles of machines give their credentials: asked where the environment has none, and how long again.
_ROLE_SECONDS = 2.0
_ROLES = re.compile(r"https?://(?:169\.254\.\d+\.\d+|metadata\.google\.internal|\[fd00:ec2:)")
#: What obstore says of an environment that it cannot use -> what is wrong.
_UNUSABLE = {
    "Account must be specified": "AZURE_STORAGE_ACCOUNT_NAME is not set",
    "Missing SecretAccessKey": "AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not",
    "Missing AccessKeyId": "AWS_SECRET_ACCESS_KEY is set, and AWS_ACCESS_KEY_ID is not",
    "Unable to open service account file": "the file that GOOGLE_APPLICATION_CREDENTIALS names cannot be read",
}
_CREDENTIALS = (
    "set the cloud's variables, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
)
_CHANGED = (exceptions.AlreadyExistsError, exceptions.PreconditionError)
_FAILURES = (exceptions.BaseError, OSError)


class ObjectBucket(Bucket):
    """The objects below one prefix of a bucket.

    Args:
        patience: for how many seconds a request is tried again.
    """

    def __init__(self, url: str, patience: float) -> None:
        self._url = url
        self._patience = patience
        try:
            # Retries are ours: after a write with a condition was cut off, one has to look whose content is there.
            self._store = from_url(
                url,
                client_options={
                    "allow_http": True,  # of an endpoint that says so itself
                    "connect_timeout": timedelta(seconds=5),
                    "timeout": timedelta(minutes=10),  # of one part; a dead connection ends by the read timeout
                    "http2_keep_alive_timeout": timedelta(seconds=20),
                },
                retry_config={"max_retries": 0},
            )
        except exceptions.BaseError as error:
            known = (words for said, words in _UNUSABLE.items() if said in str(error))
            why = next(known, "the credentials or options in the environment are not as its cloud's should be")
            raise HostError(f"the shared store {url} cannot be opened: {why}", _CREDENTIALS) from None

    @property
    def url(self) -> str:
        return self._url

    def get(self, name: str, limit: int) -> Blob | None:
        def read() -> Blob | None:
            found = obstore.get(self._store, name)
            if found.meta["size"] > limit:
                return None
            meta = found.meta
            return Blob(bytes(found.bytes()), meta["e_tag"] or "", meta["last_modified"].timestamp())

        return self._found("read", read)

    def head(self, name: str) -> Listed | None:
        def look() -> Listed:
            meta = obstore.head(self._store, name)
            return Listed(name, meta["size"], meta["last_modified"].timestamp())

        return self._found("read", look)

    def download(self, name: str, path: Path | None, limit: int) -> str | None:
        def read() -> str:
            digest, left = hashlib.sha256(), limit
            chunks = obstore.get(self._store, name).stream(min_chunk_size=1 << 20)
            if path is not None:
                path.unlink(missing_ok=True)  # what an attempt before has left
            with writer(path) as write:
                for chunk in chunks:
                    data = bytes(chunk)[:left]
                    left -= len(data)
                    digest.update(data)
                    write(data)
                    if left <= 0:
                        break
            return digest.hexdigest()

        return self._found("read", read)

    def put(self, name: str, data: bytes) -> None:
        self._try("write", lambda: obstore.put(self._store, name, data))

    def upload(self, name: str, path: Path) -> None:
        part = max(_PART, path.stat().st_size // _MOST_PARTS)
        self._try("write", lambda: obstore.put(self._store, name, path, chunk_size=part, max_concurrency=4))

    def create(self, name: str, data: bytes) -> str | None:
        return self._if_unchanged(
            name, data, lambda: obstore.put(self._store, name, data, mode="create", use_multipart=False)["e_tag"]
        )

    def replace(self, name: str, data: bytes, tag: str) -> str | None:
        return self._if_unchanged(
            name, data, lambda: obstore.put(self._store, name, data, mode={"e_tag": tag}, use_multipart=False)["e_tag"]
        )

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._try("write", lambda: obstore.delete(self._store, name))

    def list(self, prefix: str) -> Iterator[Listed]:
        def look() -> list[Listed]:
            return [
                Listed(meta["path"], meta["size"], meta["last_modified"].timestamp())
                for batch in obstore.list(self._store, prefix, chunk_size=1000)
                for meta in batch
            ]

        yield from self._try("read", look)

    def now(self) -> float:
        name = f"clock/{secrets.token_hex(8)}"
        self.put(name, b"")
        found = self.head(name)
        self.delete(name)
        if found is None:
            raise HostError(f"the shared store {self._url} does not keep what is written", "choose another store")
        return found.modified

    def _if_unchanged(self, name: str, data: bytes, write: Callable[[], str | None]) -> str | None:
        """A write with a condition. An attempt that was cut off may have succeeded: then the content is ours."""
        attempts = 0

        def attempt() -> str | None:
            nonlocal attempts
            attempts += 1
            return write()

        try:
            return self._try("write", attempt)
        except _CHANGED:
            found = self.get(name, len(data)) if attempts > 1 else None
            return found.tag if found is not None and found.data == data else None

    def _found(self, doing: str, read: Callable[[], T]) -> T | None:
        try:
            return self._try(doing, read)
        except FileNotFoundError:
            return None

    def _try(self, doing: str, request: Callable[[], T]) -> T:
        """Send a request, again while that may help.

        Raises:
            FileNotFoundError: there is no such object.
            AlreadyExistsError, PreconditionError: of obstore: the condition of a write is not met.
        """
        begin, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                return request()
            except _CHANGED:
                raise
            except _FAILURES as error:
                refusal = self._refusal(error, doing)
                if refusal is not None:
                    raise refusal from None  # its cause would show what was sent
                if isinstance(error, OSError):  # no such object; or this machine's disk, which waiting does not help
                    raise
                if time.monotonic() + pause - begin > self._patience_for(error):
                    raise self._unreachable(error) from None
                time.sleep(random.uniform(pause / 2, pause))  # noqa: S311  no secret
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _patience_for(self, error: Exception) -> float:
        """A role answers at once, or there is none."""
        return min(self._patience, _ROLE_SECONDS) if _ROLES.search(str(error)) else self._patience

    def _refusal(self, error: Exception, doing: str) -> HostError | None:
        text = str(error)
        found = _CODE.search(text)
        code = (found[1] or found[2]) if found else ""
        if code not in _REFUSALS and isinstance(
            error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
        ):
            code = "AccessDenied"
        if code not in _REFUSALS:
            return None
        why, remedy = _REFUSALS[code]
        kind = HostError if code in ("NoSuchBucket", "InvalidBucketName") else Denied
        return kind(f"cannot {doing} the shared store {self._url}: {why}", remedy)

    def _unreachable(self, error: Exception) -> HostError:
        if _ROLES.search(str(error)):
            return HostError(
                f"the shared store {self._url} cannot be used: the environment holds no credentials for it, and this "
                "machine has no role that gives any",
                _CREDENTIALS,
            )
        status = _STATUS.search(str(error))
        why = f"it answers with status {status[1]}" if status else "it does not answer"
        return (HostError if status else Unreachable)(
            f"the shared store {self._url} cannot be used: {why} (tried for {self._patience:.0f} s)",
            "check address, endpoint (AWS_ENDPOINT_URL) and network; without a store, this machine's cache is enough",
        )
