"""Samples from a folder of images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.config.recipe import ImageSettings
from trtpipe.config.units import suggestion
from trtpipe.data.bad_samples import BadSample, try_sample
from trtpipe.data.batching import BatchedDataset
from trtpipe.data.input_checks import checked, free_batch, numpy_type, static_batch
from trtpipe.data.pixels import FORMATS, RAW, load_tensor, require_pillow
from trtpipe.data.sample import ContentDigests, Sample
from trtpipe.data.selection import select
from trtpipe.digest import sha256_file, sha256_json
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from trtpipe.artifact import IOContract, TensorSpec
    from trtpipe.config.recipe import DataSettings
    from trtpipe.data.sample import Dataset

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif"})


@dataclass(frozen=True)
class Listing:
    """The images of a folder in sorted order of their paths, their classes, and the number of entries that are none.

    ``labels`` is ``None`` if the folder is not laid out as ``<class>/<image>``; they are positions in ``classes``, and
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


def open_images(data: DataSettings, contract: IOContract) -> Dataset:
    """Samples from the images under a folder, decoded one batch at a time.

    Raises:
        InputError: there are no images or too few, or the model does not take one image.
        HostError: Pillow is not installed.
    """
    require_pillow()
    folder = Path(data.source)
    settings = data.image or ImageSettings()
    spec = _image_input(folder, settings, contract)
    raw = numpy_type(spec, str(folder)) == np.dtype(RAW)
    if raw and (any(settings.mean) or any(value != 1 for value in settings.std)):
        raise InputError(
            f"{folder}: input {spec.name!r} takes uint8 pixels, so mean and std cannot be applied",
            "remove mean and std from the image table; if they are in this graph, add --fold-preprocessing (profile "
            "key build.fold_preprocessing)",
        )
    transform = settings.transform()
    listing = list_images(folder, data.classes)
    selection = select(len(listing.files), data, static_batch(contract), str(folder))
    files = [listing.files[index] for index in selection.indices]
    labels = None if listing.labels is None else [listing.labels[index] for index in selection.indices]
    expected = free_batch(contract)
    warnings = tuple(_doubts(listing, settings, raw=raw))

    def sample(position: int) -> Sample:
        path = files[position]
        label = None if labels is None else np.array([labels[position]])
        tensor = load_tensor(path, transform, raw)[np.newaxis]
        return checked(Sample({spec.name: tensor}, label), expected, str(path))

    def read() -> Generator[Sample | BadSample, None, None]:
        for position in range(len(files)):
            yield try_sample(position, partial(sample, position))

    return BatchedDataset(
        title=f"images under {folder.resolve().name}",
        selection=selection,
        read=read,
        content=lambda: _content(files, labels),
        known_warnings=warnings,
        preprocessing=settings,
        classes=listing.classes,
    )


def _doubts(listing: Listing, settings: ImageSettings, *, raw: bool) -> Iterator[str]:
    """Reasons to doubt a folder of images, or how it is prepared."""
    if listing.ignored:
        yield f"{listing.ignored} entries that are not {', '.join(FORMATS)} files were ignored"
    if len(listing.present) < len(listing.classes):
        some = ", ".join(listing.present[:5])
        yield f"images of {len(listing.present)} of the {len(listing.classes)} classes: {some}"
    if not raw and not settings.model_fields_set & {"mean", "std"}:
        yield (
            "pixels are not normalized, because the image table has neither mean nor std: give those of training, or "
            "mean = [0, 0, 0] if it had none"
        )


def list_images(folder: Path, known: Sequence[str] = ()) -> Listing:
    """The images under ``folder``, recursively. Hidden entries are ignored, linked folders are not followed.

    With every image in a sub-folder, the sub-folders of ``folder`` are the classes.

    Args:
        known: names of the classes, in the order of their numbers; without, that of the sub-folders, sorted.

    Raises:
        InputError: a folder cannot be listed, an image is a link to outside ``folder``, or a sub-folder is no class.
    """
    top = folder.resolve()
    found: list[tuple[str, ...]] = []
    ignored = 0
    for root, folders, names in os.walk(folder, onerror=_unlistable):
        here = Path(root)
        linked = {name for name in folders if (here / name).is_symlink()}
        folders[:] = [name for name in folders if not name.startswith(".") and name not in linked]
        images = [name for name in names if Path(name).suffix.lower() in _SUFFIXES and (here / name).is_file()]
        visible = [name for name in images if not name.startswith(".")]
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
            suggestion(unknown[0], classes, "classes"),
        )
    return Listing(files, tuple(classes[parts[0]] for parts in found), ignored, tuple(classes), present)


def _refuse_outside(top: Path, path: Path) -> None:
    """Data may come from anyone, and an archive may hold links to anything."""
    if path.is_symlink() and not path.resolve().is_relative_to(top):
        raise InputError(
            f"{path}: a link to outside the folder",
            "copy the images into it, or hard-link them, or give the folder they are in",
        )


def _unlistable(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed: {error.strerror}", "make the folder readable") from error


def _image_input(folder: Path, settings: ImageSettings, contract: IOContract) -> TensorSpec:
    """The one input the images are for."""
    names = [spec.name for spec in contract.inputs]
    if settings.input and settings.input not in names:
        raise InputError(
            f"{folder}: the model has no input {settings.input!r}", suggestion(settings.input, names, "inputs here")
        )
    if len(names) != 1:
        raise InputError(
            f"{folder}: a folder of images feeds one input, the model has {len(names)}: {', '.join(names)}",
            "give an .npz file with one array for each input, or path/file.py:function",
        )
    return contract.inputs[0]


def _content(files: list[Path], labels: list[int] | None) -> ContentDigests:
    try:
        digests = [sha256_file(path) for path in files]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}", "make the file readable") from error
    return ContentDigests(sha256_json(digests), "" if labels is None else sha256_json(labels))
