"""Opening a model's files, the identity of their content, and the one private copy that all else reads.

Plain files only, and external data only inside the model's own folder. A path is resolved once, and then opened name
by name without following links: what was checked is what is opened, even if files are moved meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.digest import sha256_json
from trtpipe.errors import InputError
from trtpipe.preflight.checks import Cleared, check_model

if TYPE_CHECKING:
    from typing import BinaryIO

    from trtpipe.preflight.model import External

_CHUNK = 1 << 20
_LFS_POINTER = b"version https://git-lfs"
_GIVE_MODEL = "give an .onnx file as an exporter wrote it"


def digest_model(path: Path) -> str:
    """The identity of a source model: the content of its file and of every external data file; other files do not
    count.

    Raises:
        InputError: it does not pass the checks, or its external data cannot be used.
    """
    with closing(_Opened(path, repairable=True)) as opened:
        files = {location: _copied(handle, None) for location, handle in opened.external.items()}
        return _identity(_copied(opened.handle, None), files)


def seal_model(path: Path, folder: Path, digest: str = "", *, repairable: bool = False) -> Path:
    """Copy a model with its external data into the private ``folder``, and check the copy.

    Args:
        digest: the digest that ``digest_model`` gave; empty to accept the current content.
        repairable: whether the copy is a source, which is repaired before anything else reads it; see
            ``check_model``.

    Returns:
        The copy; its name is the model's own.

    Raises:
        InputError: as for ``digest_model``; or its content no longer has that digest.
    """
    sealed = folder / path.name
    with closing(_Opened(path, repairable=repairable)) as opened:
        main = _copy(opened.handle, sealed)
        files = {location: _copy(handle, folder / location) for location, handle in opened.external.items()}
    if digest and _identity(main, files) != digest:
        raise InputError(f"{path}: was changed while it was read", "run the command again")
    with closing(_Opened(sealed, path, repairable=repairable)):  # the copy may differ from what was checked above
        return sealed


def folder_size(folder: Path) -> int:
    """Bytes of the files below ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class _Opened:
    """A model that passed the checks, with its external files open."""

    def __init__(self, path: Path, name: Path | None = None, *, repairable: bool) -> None:
        self.external: dict[str, int] = {}
        self.handle = open_model(path)
        try:
            self.cleared: Cleared = check_model(path, self.handle, name=name, repairable=repairable)
            for external in self.cleared.external:
                handle = open_external(path, external)
                location = os.path.normpath(external.location)
                if location in self.external:  # its extent was checked for this tensor; the file is open already
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


def open_model(path: Path) -> int:
    """A handle on the ``.onnx`` file at ``path``.

    Raises:
        InputError: the file is missing, or cannot be a model: a folder, a pipe, a device, an empty file, text.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file", "check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"{path}: cannot be read: {reason}", "check the path and its permissions") from error
    try:
        _refuse_non_model(path, handle)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _refuse_non_model(path: Path, handle: int) -> None:
    mode = os.fstat(handle).st_mode
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: a folder, not a model file", "name the .onnx file inside it")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: not a plain file", _GIVE_MODEL)
    head = os.pread(handle, 256, 0)
    if not head:
        raise InputError(f"{path}: empty file", _GIVE_MODEL)
    if head.startswith(_LFS_POINTER):
        raise InputError(f"{path}: a Git LFS pointer, not the model itself", "fetch the real file: git lfs pull")
    if head.isascii() and all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        raise InputError(f"{path}: a text file, not an ONNX model", _GIVE_MODEL)


def open_external(model: Path, external: External) -> int:
    """A handle on the file with a tensor's values, which is long enough to hold them all.

    Raises:
        InputError: the file is missing, too short, outside the model's folder, or not a plain file of its own.
    """
    where = f"{model}: external data of tensor {external.tensor!r}"
    given = model.parent / external.location
    try:
        root, real = Path(os.path.realpath(model.parent)), Path(os.path.realpath(given))
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: {external.location!r} is no file name", _GIVE_MODEL) from error
    parts = Path(external.location).parts
    if ".." in parts or Path(external.location).is_absolute() or not real.is_relative_to(root) or real == root:
        raise InputError(
            f"{where} lies outside the model's folder ({given})", "put the data file beside the model, without links"
        )
    if real == Path(os.path.realpath(model)):
        raise InputError(f"{where} names the model file itself", _GIVE_MODEL)
    try:
        handle = _open_beneath(root, real.relative_to(root).parts)
    except FileNotFoundError as error:
        raise InputError(f"{where} is missing: {given}", "copy the data file beside the model") from error
    except OSError as error:
        raise InputError(f"{where}: {given} cannot be read: {error.strerror}", "copy the data file anew") from error
    try:
        _check_extent(where, given, external, handle)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _open_beneath(root: Path, parts: tuple[str, ...]) -> int:
    """Open ``root/part/part``, none of whose parts is a link."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)


def _check_extent(where: str, given: Path, external: External, handle: int) -> None:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise InputError(f"{where} is not a plain file of its own: {given}", "replace it by a copy of the data")
    if external.offset < 0:
        raise InputError(f"{where} begins at {external.offset}, before its file", _GIVE_MODEL)
    needed = external.offset + external.length
    if needed > status.st_size:
        raise InputError(
            f"{where} is short: {given.name} has {status.st_size} bytes, {needed} are needed",
            "copy the whole data file",
        )
