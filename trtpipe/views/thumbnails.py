"""Samples as small pictures inside the HTML report."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.config.recipe import DataSettings, ImageSettings
from trtpipe.data.dataset import open_dataset
from trtpipe.data.sample import RowContents
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.regression.bundle import Build

_MOST = 12
#: Pixels along a side, at most.
_SIDE = 128
_CHANNELS = (1, 3)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB = 0, 2


@dataclass(frozen=True)
class Thumbnail:
    """A sample, and why it is shown.

    Attributes:
        sample: its number in the data set, from 0.
        data: a ``data:`` address of a PNG.
    """

    sample: int
    reason: str
    data: str


def thumbnails(source: str, build: Build, wanted: Mapping[int, str]) -> tuple[Thumbnail, ...]:
    """The first few of the ``wanted`` samples that are images, as the model is given them.

    Args:
        source: the evaluation data, as ``build`` took it.
        wanted: number of a sample -> why it is shown.

    Raises:
        InputError: there is no such data, or it is not what was evaluated.
    """
    parity = build.parity
    assert parity is not None
    image = parity.preprocessing if isinstance(parity.preprocessing, ImageSettings) else None
    settings = DataSettings(source=source, image=image)
    dataset = open_dataset(settings, build.contract)
    chosen = dict(list(wanted.items())[:_MOST])
    compared = frozenset(parity.chosen)
    found: dict[int, Thumbnail] = {}
    content, row = RowContents(), 0
    for sample in dataset:
        if not compared or row in compared:  # feeds were compared whole
            content.add(sample)
        array = next(iter(sample.feed.values()))
        for number in range(row, row + sample.rows):
            if number in chosen and (pixels := _pixels(array[number - row])) is not None:
                found[number] = Thumbnail(number, chosen[number], _address(pixels))
        row += sample.rows
    if content.inputs != parity.inputs_digest:
        raise InputError(
            f"{source}: not the samples that this build was evaluated on ({parity.data})", "name the same data as then"
        )
    return tuple(found[number] for number in chosen if number in found)


def _pixels(array: np.ndarray) -> np.ndarray | None:
    """uint8[H, W] or uint8[H, W, 3] of an image in either layout, from its least to its largest value."""
    if array.ndim == 3 and array.shape[0] in _CHANNELS:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or min(array.shape[:2]) < 2 or (array.ndim == 3 and array.shape[-1] != 3):
        return None
    step = -(-max(array.shape[:2]) // _SIDE)
    small = array[::step, ::step].astype(np.float64)
    low, high = float(np.nanmin(small)), float(np.nanmax(small))
    scaled = (small - low) / (high - low) if high > low else np.zeros_like(small)
    return np.nan_to_num(scaled * 255).astype(np.uint8)


def _address(pixels: np.ndarray) -> str:
    """A PNG (ISO/IEC 15948) of 8 bits a channel, without filters."""
    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, _RGB if pixels.ndim == 3 else _GRAY, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    png = _SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
