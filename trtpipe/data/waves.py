"""From one WAV file to one tensor."""

from __future__ import annotations

import wave
from contextlib import nullcontext
from typing import IO, TYPE_CHECKING

import numpy as np

from trtpipe.data.mel import log_mel
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.config.audio_transform import AudioTransform

#: Of a file without a length of its own in the settings: an hour.
_MOST_SECONDS = 3600.0
_REMEDY = "convert it to WAV, PCM of 16 bits"
#: Bytes of a value -> numpy type and what is full scale; 8 bits are unsigned, by the format.
_CODINGS = {1: ("u1", 128.0), 2: ("<i2", 32768.0), 4: ("<i4", 2147483648.0)}


def load_energies(path: Path, settings: AudioTransform, content: IO[bytes] | None = None) -> np.ndarray:
    """Its log mel energies: float32 ``[bands, frames]``, without batch axis.

    Args:
        path: a WAV file; with ``content`` only a name for error messages.
        content: the sound, if it is not a file of its own.

    Raises:
        InputError: no WAV file of this sample rate with whole numbers of 8, 16 or 32 bits, or too short.
    """
    rate, seconds = settings.sample_rate, settings.seconds
    most = round((_MOST_SECONDS if seconds is None else seconds) * rate)
    sound = _read(path, content, rate, most)
    if seconds is not None:
        sound = np.pad(sound, (0, round(seconds * rate) - len(sound)))
    if len(sound) <= settings.window // 2 or len(sound) < settings.hop:
        raise InputError(f"{path}: {len(sound)} values do not fill a frame", "remove the file, or set seconds")
    logs = log_mel(sound, rate, settings.window, settings.hop, settings.bands, settings.decades)
    return np.asarray((logs - np.float32(settings.mean)) / np.float32(settings.std))


def _read(path: Path, content: IO[bytes] | None, sample_rate: int, most: int) -> np.ndarray:
    """Up to ``most`` values in -1..1, the mean of the channels."""
    try:
        with path.open("rb") if content is None else nullcontext(content) as stream, wave.open(stream) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(min(most, file.getnframes()))
    except (OSError, EOFError, wave.Error) as error:
        raise InputError(f"{path}: not a WAV file that can be read: {error}", _REMEDY) from error
    if rate != sample_rate:
        raise InputError(
            f"{path}: {rate} Hz, and sounds are prepared with sample_rate = {sample_rate}",
            f"resample the file (ffmpeg -i IN -ar {sample_rate} OUT.wav)",
        )
    if width not in _CODINGS:
        raise InputError(f"{path}: values of {8 * width} bits", _REMEDY)
    kind, scale = _CODINGS[width]
    whole = len(raw) // (width * channels) * width * channels
    values = np.frombuffer(raw[:whole], kind).astype(np.float32).reshape(-1, channels).mean(axis=1)
    return np.asarray((values - 128.0) / 128.0 if width == 1 else values / scale, np.float32)
