"""Opening a model's files: plain files only, and external data only inside the model's own folder.

A path is resolved once, and then opened name by name without following links: what was checked is what is opened,
whoever moves files about meanwhile.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.preflight.model import External

_LFS_POINTER = b"version https://git-lfs"
_GIVE_MODEL = "give an .onnx file as an exporter wrote it"


def open_model(path: Path) -> int:
    """A handle on the ``.onnx`` file at ``path``.

    Raises:
        InputError: nothing is there, or something that cannot be a model: a folder, a pipe, a device, an empty file,
            a text.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file", "check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
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
    """A handle on the file with a tensor's values, which is known to hold them all.

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
        raise InputError(f"{where} is said to lie in the model itself", _GIVE_MODEL)
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
