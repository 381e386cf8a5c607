"""Write down what is said in WAV files: ``python listen.py PACKAGE OUT``.

Test utterances are written to ``OUT/<n>.wav``, 16 bits, and read back like anyone's files.
"""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np
from data import RATE, energies, utterances

from trtpipe.runtime import load

UTTERANCES = 6


def write_sounds(out: Path) -> list[tuple[Path, str]]:
    """Some test utterances as files, and what is said in them."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for index, (sound, said) in enumerate(utterances("test", UTTERANCES)):
        path = out / f"{index}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((sound * 32767).astype("<i2").tobytes())
        written.append((path, "".join(map(str, said))))
    return written


def read_sound(path: Path) -> np.ndarray:
    """A file with one channel of 16 bits, as float32 in -1..1."""
    with wave.open(str(path), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32767


def digits_of(scores: np.ndarray) -> str:
    """The greedy reading of CTC: the best token of each step, repeats as one, blanks left out."""
    best = scores.argmax(axis=1)
    changed = best[np.flatnonzero(np.diff(best, prepend=-1))]
    return "".join(str(token - 1) for token in changed if token)


def main() -> None:
    """One line a file: what was understood, and what was said."""
    package, out = map(Path, sys.argv[1:3])
    with load(package, device="cpu") as model:
        for path, said in write_sounds(out):
            sound = read_sound(path)
            understood = digits_of(model({"energies": energies(sound)[None]})["scores"][0])
            print(f"{path.name} ({len(sound) / RATE:.1f} s): {understood}, said {said}")


if __name__ == "__main__":
    main()
