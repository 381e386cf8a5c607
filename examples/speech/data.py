"""Spoken digits, synthesized from a seed: a voiced source through two moving formants, and noise; like nobody's voice.

Every digit is a glide through three vowels, of which the first two formants are given (Peterson and Barney 1952).
Speakers differ in pitch, size and tempo, and rooms in their noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE, BANDS, WINDOW, HOP = 8000, 32, 256, 80
#: First and second formant in Hz.
VOWELS = {
    "i": (270, 2290), "e": (530, 1840), "a": (730, 1090), "o": (570, 840), "u": (300, 870), "r": (490, 1350),
}  # fmt: skip
#: What is said for each digit.
DIGITS = ("iro", "uar", "eui", "rie", "oor", "aie", "ieu", "eea", "oie", "aoi")
PARTS = {"train": 0, "test": 1}


def utterance(random: np.random.Generator, said: np.ndarray) -> np.ndarray:
    """The sound of some digits: float32 in -1..1, 8000 values a second."""
    pitch, size, tempo = random.uniform(90, 220), random.uniform(0.8, 1.2), random.uniform(0.8, 1.25)
    pieces = [_silence(random, 0.06)]
    for digit in said:
        length = int(RATE * 0.28 / tempo * random.uniform(0.9, 1.1))
        vowels = [VOWELS[sound] for sound in DIGITS[digit]]
        places = np.linspace(0, len(vowels) - 1, length)
        formants = [np.interp(places, range(len(vowels)), each) * size for each in zip(*vowels, strict=True)]
        pieces += [_voiced(length, pitch * random.uniform(0.95, 1.05), formants), _silence(random, 0.04)]
    sound = np.concatenate(pieces)
    noise = random.normal(0, random.uniform(0.02, 0.15), len(sound))
    return (sound + noise).astype(np.float32).clip(-1, 1)


def _voiced(length: int, pitch: float, formants: list[np.ndarray]) -> np.ndarray:
    """Harmonics of a pitch, as loud as they are near a formant."""
    seconds = np.arange(length) / RATE
    harmonics = np.arange(1, int(0.45 * RATE / pitch) + 1)[:, None] * pitch
    loudness = sum(np.exp(-np.square((harmonics - formant) / 130)) for formant in formants) / harmonics**0.25
    envelope = np.sin(np.pi * np.linspace(0, 1, length)) ** 0.5
    return np.asarray((loudness * np.sin(2 * np.pi * harmonics * seconds)).sum(axis=0) * envelope * 0.8)


def _silence(random: np.random.Generator, seconds: float) -> np.ndarray:
    return np.zeros(int(RATE * seconds * random.uniform(0.5, 2)))


def energies(sound: np.ndarray) -> np.ndarray:
    """Logarithms of the energies in mel bands, float32 [32, frames]: what the network hears. A frame is 10 ms."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.square(np.abs(np.fft.rfft(frames)))
    return np.asarray(np.log(_filters() @ power.T + 1e-3), np.float32)


def _filters() -> np.ndarray:
    """Triangles of equal width on the mel scale."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    low, center, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    at = np.fft.rfftfreq(WINDOW, 1 / RATE)
    return np.clip(np.minimum((at - low) / (center - low), (high - at) / (high - center)), 0, None)


def utterances(part: str, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sounds, and the digits in them: two to five."""
    random = np.random.default_rng(PARTS[part])
    for _ in range(count):
        said = random.integers(0, 10, random.integers(2, 6))
        yield utterance(random, said), said


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Training utterances, one a feed, each as long as it is."""
    for sound, _ in utterances("train", 400):
        yield {"energies": energies(sound)[None]}


def held_out() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Test utterances and their tokens: digits from 1, because 0 is CTC's blank; padded with -1."""
    for sound, said in utterances("test", 200):
        tokens = np.full((1, 5), -1, np.int64)
        tokens[0, : len(said)] = said + 1
        yield {"energies": energies(sound)[None]}, tokens
