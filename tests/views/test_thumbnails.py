"""Samples as PNG files that Pillow reads back."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest

from trtpipe.views.thumbnails import _address, _pixels

Image = pytest.importorskip("PIL.Image")


def read(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 5, 4), (5, 4), (5, 4, 3), (5, 4, 1)])
def test_images_in_either_layout(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) - 7
    pixels = _pixels(array)
    assert pixels is not None
    shown = read(_address(pixels))
    np.testing.assert_array_equal(shown, pixels)
    assert shown.shape[:2] == (5, 4)
    assert (shown.min(), shown.max()) == (0, 255)


@pytest.mark.parametrize("shape", [(10,), (2, 5, 4), (4, 5, 6, 7), (1, 1), ()])
def test_what_is_no_image(shape: tuple[int, ...]) -> None:
    assert _pixels(np.zeros(shape, np.float32)) is None


def test_large_and_odd_ones() -> None:
    large = np.zeros((3, 1000, 600), np.float32)
    large[:, 0, 0] = np.nan
    pixels = _pixels(large)
    assert pixels is not None
    assert max(pixels.shape) <= 128
