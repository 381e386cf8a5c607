"""Scenes with digits on photographs, both as scikit-learn ships them; seeded, so that they are the same each time."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from sklearn.datasets import load_digits, load_sample_images  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Iterator

SIDE, MOST_OBJECTS = 96, 4
#: The last digits of the data set are those of test scenes alone.
PARTS = {"train": (slice(0, 1348), 0), "test": (slice(1348, None), 1)}


@cache
def _sources() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    digits = load_digits()
    return digits.images / 16, digits.target, [photo / 255 for photo in load_sample_images().images]


def scenes(part: str, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images float32 [3,96,96] in 0..1, and their objects float32 [4,5]: class, x1, y1, x2, y2; class -1 is padding."""
    chosen, seed = PARTS[part]
    images, labels, photos = _sources()
    images, labels = images[chosen], labels[chosen]
    random = np.random.default_rng(seed)
    for _ in range(count):
        photo = photos[random.integers(len(photos))]
        top, left = (random.integers(0, size - SIDE) for size in photo.shape[:2])
        scene = photo[top : top + SIDE, left : left + SIDE] * random.uniform(0.3, 0.6)
        objects = np.full((MOST_OBJECTS, 5), -1, np.float32)
        taken = np.zeros((SIDE, SIDE), bool)
        for index in range(random.integers(1, MOST_OBJECTS + 1)):
            which, scale = random.integers(len(images)), random.integers(2, 5)
            side = 8 * scale
            x, y = random.integers(0, SIDE - side + 1, 2)
            if taken[y : y + side, x : x + side].any():
                continue  # digits do not lie on each other
            taken[y : y + side, x : x + side] = True
            ink = images[which].repeat(scale, 0).repeat(scale, 1)[..., None]
            place = scene[y : y + side, x : x + side]
            scene[y : y + side, x : x + side] = place * (1 - ink) + random.uniform(0.7, 1, 3) * ink
            objects[index] = (labels[which], *_extent(ink[..., 0] > 0.2, x, y))
        yield scene.transpose(2, 0, 1).astype(np.float32), objects


def _extent(ink: np.ndarray, x: int, y: int) -> tuple[int, int, int, int]:
    """The box around what is drawn."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return int(x + columns[0]), int(y + rows[0]), int(x + columns[-1] + 1), int(y + rows[-1] + 1)


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Training scenes, one a feed."""
    for image, _ in scenes("train", 200):
        yield {"image": image[None]}


def held_out() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Test scenes with their objects, one a feed."""
    for image, objects in scenes("test", 200):
        yield {"image": image[None]}, objects[None]
