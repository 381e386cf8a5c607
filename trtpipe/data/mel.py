"""Log mel energies of sounds, in numpy alone.

The steps and the usual values are those of Whisper (Radford et al. 2022; ``log_mel_spectrogram`` in ``audio.py`` of
github.com/openai/whisper). Its filters are those of librosa with their usual arguments: Slaney, *Auditory Toolbox*,
1998.
"""

from __future__ import annotations

import numpy as np

#: Slaney's scale: equal steps up to 1000 Hz, and then 27 steps for a factor of 6.4.
_HZ_A_STEP = 200 / 3
_KNEE = 1000.0
_RATIO = np.log(6.4) / 27
#: Energies below are silence.
_LEAST = 1e-10


def log_mel(
    sound: np.ndarray, sample_rate: int, window: int, hop: int, bands: int, decades: float | None
) -> np.ndarray:
    """The logarithms (base 10) of energies in mel bands, float32 ``[bands, len(sound) // hop]``.

    Args:
        sound: float values in -1..1, longer than half a window.
        sample_rate: values a second.
        window, hop: values in a frame, and from one frame to the next.
        bands: of equal width on the mel scale, from 0 Hz to half the sample rate.
        decades: what lies further below the largest logarithm is raised to it; ``None``: nothing is.
    """
    padded = np.pad(sound.astype(np.float64), window // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][: len(sound) // hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    power = np.square(np.abs(np.fft.rfft(frames * hann)))
    logs = np.log10(np.maximum(mel_filters(sample_rate, window, bands) @ power.T, _LEAST))
    raised = logs if decades is None else np.maximum(logs, logs.max() - decades)
    return np.asarray(raised, np.float32)


def mel_filters(sample_rate: int, window: int, bands: int) -> np.ndarray:
    """Triangles of equal area over the frequencies of a spectrum, float64 ``[bands, window // 2 + 1]``."""
    edges = _hertz(np.linspace(0, _mels(sample_rate / 2), bands + 2))
    low, center, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    at = np.fft.rfftfreq(window, 1 / sample_rate)
    triangles = np.clip(np.minimum((at - low) / (center - low), (high - at) / (high - center)), 0, None)
    return np.asarray(triangles * 2 / (high - low))


def _mels(hertz: float) -> float:
    return hertz / _HZ_A_STEP if hertz < _KNEE else _KNEE / _HZ_A_STEP + float(np.log(hertz / _KNEE)) / _RATIO


def _hertz(mels: np.ndarray) -> np.ndarray:
    knee = _KNEE / _HZ_A_STEP
    return np.where(mels < knee, mels * _HZ_A_STEP, _KNEE * np.exp(_RATIO * (mels - knee)))
