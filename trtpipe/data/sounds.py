"""Samples from a folder of WAV files: their log mel energies."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.config.recipe import AudioSettings
from trtpipe.data.bad_samples import BadSample, try_sample
from trtpipe.data.batching import BatchedDataset
from trtpipe.data.folder import content, list_files, one_input
from trtpipe.data.input_checks import checked, free_batch, numpy_type, static_batch
from trtpipe.data.sample import Sample
from trtpipe.data.selection import select
from trtpipe.data.waves import load_energies
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from trtpipe.artifact import IOContract
    from trtpipe.config.recipe import DataSettings
    from trtpipe.data.folder import Listing
    from trtpipe.data.sample import Dataset

_SUFFIXES = frozenset({".wav"})


def list_sounds(folder: Path, known: Sequence[str] = ()) -> Listing:
    """The WAV files under ``folder``, as ``list_files`` lists them."""
    return list_files(folder, _SUFFIXES, known)


def open_sounds(data: DataSettings, contract: IOContract) -> Dataset:
    """Samples from the WAV files under a folder, read one batch at a time.

    Raises:
        InputError: there are no WAV files or too few, or the model does not take one input of floats.
    """
    folder = Path(data.source)
    settings = data.audio or AudioSettings()
    spec = one_input(folder, settings.input, contract, "WAV files")
    if numpy_type(spec, str(folder)).kind != "f":
        raise InputError(f"{folder}: input {spec} takes no energies", "give path/file.py:function, which yields feeds")
    transform = settings.transform()
    listing = list_sounds(folder, data.classes)
    selection = select(len(listing.files), data, static_batch(contract), str(folder))
    files = [listing.files[index] for index in selection.indices]
    labels = None if listing.labels is None else [listing.labels[index] for index in selection.indices]
    expected = free_batch(contract)

    def sample(position: int) -> Sample:
        path = files[position]
        label = None if labels is None else np.array([labels[position]])
        energies = load_energies(path, transform).astype(numpy_type(spec, str(folder)), copy=False)
        return checked(Sample({spec.name: energies[np.newaxis]}, label), expected, str(path))

    def read() -> Generator[Sample | BadSample, None, None]:
        for position in range(len(files)):
            yield try_sample(position, partial(sample, position))

    ignored = f"{listing.ignored} entries that are not .wav files were ignored"
    return BatchedDataset(
        title=f"WAV files under {folder.resolve().name}",
        selection=selection,
        read=read,
        content=lambda: content(files, labels),
        known_warnings=(ignored,) if listing.ignored else (),
        preprocessing=settings,
        classes=listing.classes,
    )
