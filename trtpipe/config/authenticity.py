"""Proof that a record was written by whoever it is trusted from: cache entries, remembered values, lists of own files.

Records of one user are authenticated with a key that lies in the user's configuration folder, or comes from
``TRTPIPE_CACHE_KEY``. :class:`Seal` is all that the rest of trtpipe knows of it, so that a store shared by many can be
sealed with signatures by one and verified by all.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from trtpipe.config.os_errors import translate_os_errors
from trtpipe.durable import write_new
from trtpipe.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

_BYTES = 32
#: Errors of reading a key that say there is no place where this user keeps one; any other (a full table of handles,
#: a failing disk) says nothing about the key, which may be there and what is stored sealed with it.
_OUT_OF_REACH = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT}
#: Errors of making one that say it cannot be kept there.
_NO_PLACE = _OUT_OF_REACH | {errno.EROFS, errno.ENOSPC, errno.EDQUOT}


class Seal(Protocol):
    """Makes and verifies proofs of where a message comes from.

    Attributes:
        lasting: whether what is sealed now can be verified by a later run.
    """

    @property
    def lasting(self) -> bool: ...

    def seal(self, purpose: str, message: bytes) -> str:
        """The proof, as printable ASCII. A proof for one purpose is none for another.

        Raises:
            HostError: this seal can only verify.
        """

    def verify(self, purpose: str, message: bytes, proof: str) -> bool:
        """Whether ``proof`` is one of ``message`` for ``purpose``."""


@dataclass(frozen=True)
class Mac:
    """HMAC-SHA256 (RFC 2104) under a key that only the user can read; the proof is 64 hex digits."""

    key: bytes = field(repr=False)
    lasting: bool = True

    def seal(self, purpose: str, message: bytes) -> str:
        """The message's authentication code; a purpose has no zero byte, so no two inputs are joined to the same."""
        return hmac.new(self.key, purpose.encode() + b"\0" + message, hashlib.sha256).hexdigest()

    def verify(self, purpose: str, message: bytes, proof: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.seal(purpose, message).encode(), proof.encode("utf-8", "replace"))


@dataclass(frozen=True)
class UserKey:
    """The seal of this user, whose key is read, or made, when it is first needed.

    Where no key can be kept, it is one that lasts as long as this process.

    Attributes:
        secret: a text that stands for the key (``TRTPIPE_CACHE_KEY``); empty to use the file.
        file: the key's file; ``None`` where no home folder is known.

    Raises:
        HostError: from every method: the file belongs to another user, is open to others, or is no key.
    """

    secret: str = field(repr=False)
    file: Path | None

    @property
    def lasting(self) -> bool:
        """Whether the key outlives this process."""
        return self.mac.lasting

    def seal(self, purpose: str, message: bytes) -> str:
        """As ``Mac``."""
        return self.mac.seal(purpose, message)

    def verify(self, purpose: str, message: bytes, proof: str) -> bool:
        """As ``Mac``."""
        return self.mac.verify(purpose, message, proof)

    @cached_property
    def mac(self) -> Mac:
        """The code with the key in force."""
        if self.secret:
            return Mac(hashlib.sha256(b"trtpipe cache key\0" + self.secret.encode("utf-8", "surrogateescape")).digest())
        if self.file is not None:
            elsewhere = "set TRTPIPE_CACHE_KEY"
            with translate_os_errors(self.file, "read the key of the cache", elsewhere=elsewhere):
                possible = _OUT_OF_REACH
                try:
                    key = _read(self.file)
                    possible = _NO_PLACE
                    return Mac(key or _make(self.file))
                except OSError as error:
                    if error.errno not in possible:
                        raise
        return _TEMPORARY


_TEMPORARY = Mac(secrets.token_bytes(_BYTES), lasting=False)


def _read(file: Path) -> bytes | None:
    """The key in ``file``; ``None`` if there is none."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _unusable(file, "it is a link") from error
        raise
    with os.fdopen(handle, "rb") as stream:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _unusable(file, "it is no file")
        if status.st_uid != os.geteuid():
            raise _unusable(file, f"it belongs to another user (uid {status.st_uid})")
        if status.st_mode & 0o077:
            raise _unusable(file, "others may read or write it")
        key = stream.read(_BYTES + 1)
    if len(key) != _BYTES:
        raise _unusable(file, f"it does not hold {_BYTES} bytes")
    return key


def _make(file: Path) -> bytes:
    """A new key, or the one that another process has just made: a file that appears at once, and whole."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = file.with_name(f".{secrets.token_hex(8)}.part")
    try:
        write_new(part, secrets.token_bytes(_BYTES))
        part.chmod(0o600)  # whatever the umask
        with suppress(FileExistsError):
            os.link(part, file)
    finally:
        with suppress(OSError):
            part.unlink()
    key = _read(file)
    if key is None:
        raise FileNotFoundError(errno.ENOENT, "the key was removed", str(file))
    return key


def _unusable(file: Path, why: str) -> HostError:
    return HostError(
        f"cannot use the key {file}: {why}",
        "remove it, and a new one is made (what is cached is built again), or set TRTPIPE_CACHE_KEY",
    )
