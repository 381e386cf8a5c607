"""From a recipe's data settings to a Dataset: the table of data sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.config.paths import refuse_url
from trtpipe.config.preprocessing import left_to_readers
from trtpipe.config.recipe import ImageSettings
from trtpipe.data import arrays, folder, function, hdf5, images, shards, sounds
from trtpipe.data.batching import BatchedDataset
from trtpipe.data.sample import Dataset, Sample
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtpipe.artifact import IOContract
    from trtpipe.config.recipe import DataSettings
    from trtpipe.isolation.worker import Limits
    from trtpipe.progress import Progress

#: Images that are read as they are.
_BYTES = left_to_readers(ImageSettings())

__all__ = ["SOURCES", "DataSource", "Dataset", "Sample", "open_dataset"]


@dataclass(frozen=True)
class DataSource:
    """A kind of data trtpipe reads.

    Attributes:
        description: what the user gives, for messages.
        recognizes: whether a source string is of this kind.
        open: makes the Dataset; raises InputError if the data cannot be used.
        takes_images, takes_sounds: whether ``[data.image]`` applies, or ``[data.audio]``.
        takes_labels: whether ``labels`` can name an array in it.
    """

    description: str
    recognizes: Callable[[str], bool]
    open: Callable[[DataSettings, IOContract], Dataset]
    takes_images: bool = False
    takes_sounds: bool = False
    takes_labels: bool = False


def _file(*suffixes: str) -> Callable[[str], bool]:
    """Whether a string names an existing file with one of these suffixes."""
    return lambda source: source.lower().endswith(suffixes) and Path(source).is_file()


SOURCES: tuple[DataSource, ...] = (
    DataSource("a folder of images", folder.recognizes, images.open_images, takes_images=True),
    DataSource("a folder of WAV files", folder.recognizes, sounds.open_sounds, takes_sounds=True),
    DataSource("an .npz file", _file(".npz"), arrays.open_npz, takes_labels=True),
    DataSource("an .npy file", _file(".npy"), arrays.open_npy),
    DataSource("an .h5 file", _file(".h5", ".hdf5"), hdf5.open_hdf5, takes_labels=True),
    DataSource(
        "tar shards (.tar or .tar.gz, or shard-{000..012}.tar)",
        shards.recognizes,
        shards.open_shards,
        takes_images=True,
    ),
    DataSource("path/file.py:function or package.module:function", function.recognizes, function.open_function),
)


def open_dataset(
    data: DataSettings,
    contract: IOContract,
    limits: Limits | None = None,
    *,
    folded: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """The samples that ``data`` names, as the model with ``contract`` takes them.

    Args:
        limits: of a child that runs a function of the user (default: those of the environment).
        folded: whether the model takes images as bytes and prepares them itself, see ``FoldedPreprocessing``.
        progress: ends that child when it is stopped.

    Raises:
        InputError: there is no such data, or it does not fit the model.
        HostError: a package that reads it is missing.
    """
    source = _source(data.source, sounds=data.audio is not None)
    if folded:
        data = data.model_copy(update={"image": _left(data.image, source)})
    if data.image is not None and not source.takes_images:
        raise InputError(
            f"{data.source}: this is {source.description}, and image preprocessing applies to images only",
            "remove the image table, or give a folder of images or tar shards",
        )
    if data.audio is not None and not source.takes_sounds:
        raise InputError(
            f"{data.source}: this is {source.description}, and audio preprocessing applies to WAV files only",
            "remove the audio table, or give a folder of WAV files",
        )
    if data.labels and not source.takes_labels:
        raise InputError(
            f"{data.source}: this is {source.description}, which has no array {data.labels!r} for the labels",
            "remove the key labels, which is for .npz and .h5 files",
        )
    if source.open is function.open_function:
        return function.open_function(data, contract, limits, progress)
    return source.open(data, contract)


def _left(image: ImageSettings | None, source: DataSource) -> ImageSettings | None:
    """What is left to do to images; of data that holds arrays nothing, if all there was is in the graph."""
    left = left_to_readers(image or ImageSettings())
    done = {"input", "channels"}
    return left if source.takes_images or left.model_dump(exclude=done) != _BYTES.model_dump(exclude=done) else None


def unbatched(dataset: Dataset) -> Dataset:
    """The same samples, one a feed where trtpipe joined them to batches and the model takes any number."""
    return dataset.unbatched() if isinstance(dataset, BatchedDataset | function.FunctionDataset) else dataset


def check_source(text: str) -> None:
    """See that ``text`` names data of a kind that is read here, and that it is there; functions are not loaded.

    Raises:
        InputError: it does not.
    """
    module = text.rpartition(":")[0]
    if _source(text).open is function.open_function and module.endswith(".py") and not Path(module).is_file():
        raise InputError(f"{module}: no such file", "check the path before the colon")


def _source(text: str, *, sounds: bool = False) -> DataSource:
    """The kind of data that ``text`` names; a folder holds images, or sounds where these are asked for."""
    known = "; ".join(source.description for source in SOURCES)
    if not text:
        raise InputError("no data is given", f"give one of: {known}")
    found = [source for source in SOURCES if source.recognizes(text)]
    if found:
        return next((source for source in found if source.takes_sounds == sounds), found[0])
    refuse_url(text)
    if Path(text).exists():
        raise InputError(f"{text}: not a kind of data trtpipe reads", f"give one of: {known}")
    raise InputError(f"{text}: no such file or folder", f"give one of: {known}")
