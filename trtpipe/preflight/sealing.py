"""The one private copy of a model that anything else ever opens, and the identity of what was copied."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.digest import sha256_json
from trtpipe.errors import InputError
from trtpipe.preflight.files import open_external, open_model
from trtpipe.preflight.preflight import Cleared, check_model

if TYPE_CHECKING:
    from typing import BinaryIO

_CHUNK = 1 << 20


def digest_model(path: Path) -> str:
    """The identity of a model: the content of its file and of every external data file, whatever lies around them.

    Raises:
        InputError: it does not pass the pre-flight, or its external data cannot be used.
    """
    with closing(_Opened(path)) as opened:
        files = {location: _copied(handle, None) for location, handle in opened.external.items()}
        return _identity(_copied(opened.handle, None), files)


def seal_model(path: Path, folder: Path, digest: str = "") -> Path:
    """Copy a model with its external data into ``folder``, which is private, and check the copy.

    Args:
        digest: what ``digest_model`` has said of it; empty to take it as it is now.

    Returns:
        The copy; its name is the model's own.

    Raises:
        InputError: as for ``digest_model``; or the model is not the one the digest was taken of.
    """
    sealed = folder / path.name
    with closing(_Opened(path)) as opened:
        main = _copy(opened.handle, sealed)
        files = {location: _copy(handle, folder / location) for location, handle in opened.external.items()}
    if digest and _identity(main, files) != digest:
        raise InputError(f"{path}: was changed while it was read", "run the command again")
    with closing(_Opened(sealed, path)):  # the copy may differ from what was checked above
        return sealed


def folder_size(folder: Path) -> int:
    """Bytes of the files below ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class _Opened:
    """A model that passed the pre-flight, with its external files open."""

    def __init__(self, path: Path, name: Path | None = None) -> None:
        self.external: dict[str, int] = {}
        self.handle = open_model(path)
        try:
            self.cleared: Cleared = check_model(path, self.handle, name=name)
            for external in self.cleared.external:
                handle = open_external(path, external)
                location = os.path.normpath(external.location)
                if location in self.external:  # checked for this tensor's place, and open already
                    os.close(handle)
                else:
                    self.external[location] = handle
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all files."""
        for handle in (self.handle, *self.external.values()):
            os.close(handle)


def _identity(main: str, files: dict[str, str]) -> str:
    return sha256_json(["onnx", main, sorted([Path(location).name, digest] for location, digest in files.items())])


def _copy(handle: int, target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as stream:
        return _copied(handle, stream)


def _copied(handle: int, target: BinaryIO | None) -> str:
    """The sha256 of an open file; what is hashed is also what is written."""
    digest, at = hashlib.sha256(), 0
    while data := os.pread(handle, _CHUNK, at):
        digest.update(data)
        at += len(data)
        if target is not None:
            target.write(data)
    return digest.hexdigest()
