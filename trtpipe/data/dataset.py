"""From the recipe's words for data to a Dataset: the explicit list of the sources, and the door to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.data import arrays, function, hdf5, images, shards
from trtpipe.data.sample import Dataset, Sample
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtpipe.artifact import IOContract
    from trtpipe.config.recipe import DataSettings

__all__ = ["SOURCES", "Dataset", "Sample", "Source", "open_dataset"]


@dataclass(frozen=True)
class Source:
    """A kind of data trtpipe reads.

    Attributes:
        words: what the user writes to get it.
        recognizes: whether a source string means this kind.
        open: makes the Dataset; raises InputError if the data cannot be used.
        takes_images: whether ``[data.image]`` applies.
        takes_labels: whether ``labels`` names an array in it.
    """

    words: str
    recognizes: Callable[[str], bool]
    open: Callable[[DataSettings, IOContract], Dataset]
    takes_images: bool = False
    takes_labels: bool = False


SOURCES: tuple[Source, ...] = (
    Source("a folder of images", images.recognizes, images.open_images, takes_images=True),
    Source("an .npz file", arrays.recognizes_npz, arrays.open_npz, takes_labels=True),
    Source("an .npy file", arrays.recognizes_npy, arrays.open_npy),
    Source("an .h5 file", hdf5.recognizes, hdf5.open_hdf5, takes_labels=True),
    Source(
        "tar shards (.tar or .tar.gz, or shard-{000..012}.tar)",
        shards.recognizes,
        shards.open_shards,
        takes_images=True,
    ),
    Source("path/file.py:function or package.module:function", function.recognizes, function.open_function),
)


def open_dataset(data: DataSettings, contract: IOContract) -> Dataset:
    """The samples ``data`` speaks of, as the model with ``contract`` takes them.

    Raises:
        InputError: there is no such data, or it does not fit the model.
        HostError: a package that reads it is missing.
    """
    source = _source(data.source)
    if data.image is not None and not source.takes_images:
        raise InputError(
            f"{data.source}: image preprocessing applies to a folder of images or tar shards, not to {source.words}",
            "remove the image table, or give images",
        )
    if data.labels and not source.takes_labels:
        raise InputError(
            f"{data.source}: labels {data.labels!r} names an array of an .npz or .h5 file, but this is {source.words}",
            "remove the key labels: image folders, shards and functions bring their own",
        )
    return source.open(data, contract)


def _source(text: str) -> Source:
    known = "; ".join(source.words for source in SOURCES)
    if not text:
        raise InputError("no data is given", f"give one of: {known}")
    for source in SOURCES:
        if source.recognizes(text):
            return source
    if Path(text).exists():
        raise InputError(f"{text}: not a kind of data trtpipe reads", f"give one of: {known}")
    raise InputError(f"{text}: no such file or folder", f"give one of: {known}")
