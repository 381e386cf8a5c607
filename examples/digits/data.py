"""The digits that ``calib/digits.toml`` points at; needs numpy alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

DIGITS = Path(__file__).with_name("digits.npz")
TRAIN, HELD_OUT = 0, 1  # the values of "split" in the file
BATCH = 32


def load(part: int, path: Path = DIGITS) -> tuple[np.ndarray, np.ndarray]:
    """One part of the data, in file order: images float32 [n,1,8,8] in 0..1, and labels int64 [n]."""
    with np.load(path, allow_pickle=False) as file:
        chosen = file["split"] == part
        images, labels = file["images"][chosen], file["labels"][chosen]
    return images[:, None].astype(np.float32) / 16, labels.astype(np.int64)


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Training images one by one, as the network's input: ``image``, float32 [1,1,8,8]."""
    images, _ = load(TRAIN)
    for image in images:
        yield {"image": image[None]}


def held_out() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Batches the network never saw: ``image``, float32 [n,1,8,8], and its labels, int64 [n]; n is at most 32."""
    images, labels = load(HELD_OUT)
    for start in range(0, len(images), BATCH):
        batch = slice(start, start + BATCH)
        yield {"image": images[batch]}, labels[batch]
