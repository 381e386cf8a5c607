"""Files of one kind under a folder: their order, their classes, and what their content is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.config.units import suggestion
from trtpipe.data.sample import ContentDigests
from trtpipe.digest import sha256_file, sha256_json
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.artifact import IOContract, TensorSpec


@dataclass(frozen=True)
class Listing:
    """The files of a folder in sorted order of their paths, their classes, and the number of entries that are none of
    them.

    ``labels`` is ``None`` if the folder is not laid out as ``<class>/<file>``; they are positions in ``classes``, and
    ``present`` are the classes that are there.
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...] | None
    ignored: int
    classes: tuple[str, ...] = ()
    present: tuple[str, ...] = ()


def recognizes(source: str) -> bool:
    """Whether ``source`` is a folder."""
    return bool(source) and Path(source).is_dir()


def list_files(folder: Path, suffixes: frozenset[str], known: Sequence[str] = ()) -> Listing:
    """The files under ``folder`` that end so, recursively. Hidden entries are ignored, linked folders are not followed.

    With every file in a sub-folder, the sub-folders of ``folder`` are the classes.

    Args:
        known: names of the classes, in the order of their numbers; without, that of the sub-folders, sorted.

    Raises:
        InputError: a folder cannot be listed, a file is a link to outside ``folder``, or a sub-folder is no class.
    """
    top = folder.resolve()
    found: list[tuple[str, ...]] = []
    ignored = 0
    for root, folders, names in os.walk(folder, onerror=_unlistable):
        here = Path(root)
        linked = {name for name in folders if (here / name).is_symlink()}
        folders[:] = [name for name in folders if not name.startswith(".") and name not in linked]
        those = [name for name in names if Path(name).suffix.lower() in suffixes and (here / name).is_file()]
        visible = [name for name in those if not name.startswith(".")]
        for name in visible:
            _refuse_outside(top, here / name)
        ignored += len(linked) + sum(not name.startswith(".") for name in names) - len(visible)
        found.extend((here / name).relative_to(folder).parts for name in visible)
    found.sort()
    files = tuple(folder.joinpath(*parts) for parts in found)
    if not all(len(parts) > 1 for parts in found):
        return Listing(files, None, ignored)
    folders = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    classes = {name: index for index, name in enumerate(known or folders)}
    present = tuple(sorted({parts[0] for parts in found}))
    if unknown := [name for name in present if name not in classes]:
        raise InputError(
            f"{folder / unknown[0]}: {unknown[0]!r} is none of the {len(classes)} classes",
            f"rename the folder, or list the model's classes under the recipe's key classes; "
            f"{suggestion(unknown[0], classes, 'classes')}",
        )
    return Listing(files, tuple(classes[parts[0]] for parts in found), ignored, tuple(classes), present)


def _refuse_outside(top: Path, path: Path) -> None:
    """Data may come from anyone, and an archive may hold links to anything."""
    if path.is_symlink() and not path.resolve().is_relative_to(top):
        raise InputError(
            f"{path}: a link to outside the folder",
            "copy the files into it, or hard-link them, or give the folder they are in",
        )


def _unlistable(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed: {error.strerror}", "make the folder readable") from error


def one_input(folder: Path, name: str, contract: IOContract, kind: str) -> TensorSpec:
    """The one input that files feed.

    Args:
        name: that the recipe gives it; empty for none.
        kind: of the files, for messages.

    Raises:
        InputError: the model has no such input, or several.
    """
    names = [spec.name for spec in contract.inputs]
    if name and name not in names:
        raise InputError(f"{folder}: the model has no input {name!r}", suggestion(name, names, "inputs here"))
    if len(names) != 1:
        raise InputError(
            f"{folder}: a folder of {kind} feeds one input, the model has {len(names)}: {', '.join(names)}",
            "give an .npz file with one array for each input, or path/file.py:function",
        )
    return contract.inputs[0]


def content(files: Sequence[Path], labels: Sequence[int] | None) -> ContentDigests:
    """The digests over the files and over their labels.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        digests = [sha256_file(path) for path in files]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}", "make the file readable") from error
    return ContentDigests(sha256_json(digests), "" if labels is None else sha256_json(labels))
