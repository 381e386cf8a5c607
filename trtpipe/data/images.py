"""Samples from a folder of images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.config.recipe import ImageSettings
from trtpipe.data.bad_samples import BadSample, try_sample
from trtpipe.data.batching import BatchedDataset
from trtpipe.data.folder import Listing, content, list_files, one_input
from trtpipe.data.input_checks import checked, free_batch, numpy_type, static_batch
from trtpipe.data.pixels import FORMATS, RAW, load_tensor, require_pillow
from trtpipe.data.sample import Sample
from trtpipe.data.selection import select
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from trtpipe.artifact import IOContract
    from trtpipe.config.recipe import DataSettings
    from trtpipe.data.sample import Dataset

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif"})


def open_images(data: DataSettings, contract: IOContract) -> Dataset:
    """Samples from the images under a folder, decoded one batch at a time.

    Raises:
        InputError: there are no images or too few, or the model does not take one image.
        HostError: Pillow is not installed.
    """
    require_pillow()
    folder = Path(data.source)
    settings = data.image or ImageSettings()
    spec = one_input(folder, settings.input, contract, "images")
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
        content=lambda: content(files, labels),
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
    """The images under ``folder``, as ``list_files`` lists them."""
    return list_files(folder, _SUFFIXES, known)
