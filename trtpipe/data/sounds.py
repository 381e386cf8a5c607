"""Samples from a folder of WAV files: their log mel energies."""

from __future__ import annotations

import wave
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.config.recipe import AudioSettings
from trtpipe.data.bad_samples import BadSample, try_sample
from trtpipe.data.batching import BatchedDataset
from trtpipe.data.folder import content, list_files, one_input
from trtpipe.data.input_checks import checked, free_batch, numpy_type, static_batch
from trtpipe.data.mel import log_mel
from trtpipe.data.sample import Sample
from trtpipe.data.selection import select
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from trtpipe.artifact import IOContract
    from trtpipe.config.recipe import DataSettings
    from trtpipe.data.folder import Listing
    from trtpipe.data.sample import Dataset

_SUFFIXES = frozenset({".wav"})
#: Of a file without a length of its own in the recipe: an hour.
_MOST_SECONDS = 3600.0
_REMEDY = "convert it to WAV, PCM of 16 bits"
#: Bytes of a value -> numpy type and what is full scale; 8 bits are unsigned, by the format.
_CODINGS = {1: ("u1", 128.0), 2: ("<i2", 32768.0), 4: ("<i4", 2147483648.0)}


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
    listing = list_sounds(folder, data.classes)
    selection = select(len(listing.files), data, static_batch(contract), str(folder))
    files = [listing.files[index] for index in selection.indices]
    labels = None if listing.labels is None else [listing.labels[index] for index in selection.indices]
    expected = free_batch(contract)

    def sample(position: int) -> Sample:
        path = files[position]
        label = None if labels is None else np.array([labels[position]])
        energies = load_energies(path, settings).astype(numpy_type(spec, str(folder)), copy=False)
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


def load_energies(path: Path, settings: AudioSettings) -> np.ndarray:
    """What a recipe's audio table makes of a WAV file: float32 ``[bands, frames]``.

    Raises:
        InputError: no WAV file of this sample rate with whole numbers of 8, 16 or 32 bits, or too short.
    """
    rate, seconds = settings.sample_rate, settings.seconds
    sound = _read(path, rate, round((_MOST_SECONDS if seconds is None else seconds) * rate))
    if seconds is not None:
        sound = np.pad(sound, (0, round(seconds * rate) - len(sound)))
    if len(sound) <= settings.window // 2 or len(sound) < settings.hop:
        raise InputError(f"{path}: {len(sound)} values do not fill a frame", "remove the file, or set seconds")
    logs = log_mel(sound, rate, settings.window, settings.hop, settings.bands, settings.decades)
    return np.asarray((logs - np.float32(settings.mean)) / np.float32(settings.std))


def _read(path: Path, sample_rate: int, most: int) -> np.ndarray:
    """Up to ``most`` values in -1..1, the mean of the channels."""
    try:
        with path.open("rb") as content, wave.open(content) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(min(most, file.getnframes()))
    except (OSError, EOFError, wave.Error) as error:
        raise InputError(f"{path}: not a WAV file that can be read: {error}", _REMEDY) from error
    if rate != sample_rate:
        raise InputError(
            f"{path}: {rate} Hz, and the recipe's audio table has sample_rate = {sample_rate}",
            f"resample the file (ffmpeg -i IN -ar {sample_rate} OUT.wav)",
        )
    if width not in _CODINGS:
        raise InputError(f"{path}: values of {8 * width} bits", _REMEDY)
    kind, scale = _CODINGS[width]
    whole = len(raw) // (width * channels) * width * channels
    values = np.frombuffer(raw[:whole], kind).astype(np.float32).reshape(-1, channels).mean(axis=1)
    return np.asarray((values - 128.0) / 128.0 if width == 1 else values / scale, np.float32)
