"""From one image file to one tensor."""

from __future__ import annotations

import struct
from typing import IO, TYPE_CHECKING

import numpy as np

from trtpipe.config.requirements import require
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from trtpipe.artifact import Feed
    from trtpipe.config.image_transform import ImageTransform
    from trtpipe.config.preprocessing import FoldedPreprocessing

#: The formats Pillow may open, whatever a file's name says: few, common, and well tested.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")

#: The type of an input that takes pixels as they are.
RAW = "uint8"

#: Pixels an image may have, before and after resizing: 64 Mi, which decode to a quarter of a gigabyte.
MAX_PIXELS = 1 << 26


def require_pillow() -> None:
    """Raise HostError unless images can be decoded here."""
    require("PIL.Image", "decoding images", "images", package="Pillow")


def load_tensor(path: Path, settings: ImageTransform, raw: bool, content: IO[bytes] | None = None) -> np.ndarray:
    """One image as a tensor without batch axis: [C, H, W] or [H, W, C], as ``settings.layout`` says.

    Alpha channels are dropped, 16-bit grays lose their low byte, and EXIF orientation is not applied: as in the usual
    training pipelines (Pillow's ``convert("RGB")``).

    Args:
        path: a PNG, JPEG, BMP, WEBP or GIF file with a single frame; with ``content`` only a name for error messages.
        raw: return the pixels as uint8 0..255, neither scaled nor normalized, instead of float32.
        content: the image, if it is not a file of its own.

    Raises:
        InputError: not such an image, damaged, too large, or too small for the crop; the message names the file.
    """
    image = _cropped(_resized(_decoded(path, settings, content), settings, path), settings, path)
    pixels = np.asarray(_filled(image, settings, path))
    pixels = pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels
    if settings.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    values = pixels if raw else _normalized(pixels, settings)
    return np.ascontiguousarray(values.transpose(2, 0, 1) if settings.layout == "CHW" else values)


def _decoded(path: Path, settings: ImageTransform, content: IO[bytes] | None) -> Image:
    """The image in mode RGB, or L if the tensor has one channel."""
    import PIL.Image

    oversize = (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning)
    try:
        with PIL.Image.open(path if content is None else content, formats=FORMATS) as image:
            _refuse_size(path, image.size)
            # "MPO" is a photo with an extra picture inside, not an animation.
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise InputError(f"{path}: an animated image is not one sample", "give images with a single frame")
            image.load()
            rgb = _opaque(image).convert("RGB")
    except oversize as error:
        raise InputError(f"{path}: too large: {error}", "remove it or scale it down") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file", "give an existing image file") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise InputError(
            f"{path}: damaged, or not a {', '.join(FORMATS)} image: {error}", "remove or replace this file"
        ) from error
    return rgb.convert("L") if settings.channels == "L" else rgb


def _opaque(image: Image) -> Image:
    """The image in a mode that converts to RGB correctly."""
    import PIL.Image

    if image.mode.startswith("I"):  # 16-bit gray: Pillow would clip to 255
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    return image


def _resized(image: Image, settings: ImageTransform, path: Path) -> Image:
    """The image with its short side (or both sides) as the settings say; the long side is rounded down."""
    import PIL.Image

    if settings.letterbox is not None:
        scale = min(settings.letterbox[0] / image.height, settings.letterbox[1] / image.width)
        width, height = (max(1, round(scale * side)) for side in image.size)
    elif settings.resize is None:
        return image
    elif isinstance(settings.resize, int):
        short = min(image.size)
        width, height = (int(settings.resize * side / short) for side in image.size)
    else:
        height, width = settings.resize
    _refuse_size(path, (width, height))
    if (width, height) == image.size:
        return image
    return image.resize((width, height), PIL.Image.Resampling[settings.interpolation.upper()])


def _cropped(image: Image, settings: ImageTransform, path: Path) -> Image:
    """The center of the image; an odd margin's half is rounded to even, as in torchvision."""
    if settings.crop is None:
        return image
    height, width = settings.crop
    if image.width < width or image.height < height:
        raise InputError(
            f"{path}: {image.height}x{image.width} pixels (height x width) before the crop to {height}x{width}",
            "set resize so that the short side is at least as long as the crop",
        )
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _filled(image: Image, settings: ImageTransform, path: Path) -> Image:
    """The image on a canvas of the size of ``letterbox``, in its middle, or of ``pad``, in its upper left corner."""
    import PIL.Image

    size = settings.letterbox or settings.pad
    if size is None:
        return image
    height, width = size
    _refuse_size(path, (width, height))
    if image.height > height or image.width > width:
        raise InputError(
            f"{path}: {image.height}x{image.width} pixels (height x width) do not fit into pad = {height}x{width}",
            "set resize so that the image fits, or use letterbox",
        )
    left, top = ((width - image.width) // 2, (height - image.height) // 2) if settings.letterbox else (0, 0)
    canvas = PIL.Image.new(image.mode, (width, height), settings.fill if image.mode == "L" else (settings.fill,) * 3)
    canvas.paste(image, (left, top))
    return canvas


def as_model_input(pixels: np.ndarray, folded: FoldedPreprocessing) -> np.ndarray:
    """What the model itself takes for a batch of bytes that is fed to a graph with its preprocessing in it.

    Args:
        pixels: uint8[N, H, W, C].

    Returns:
        float32[N, C, H, W] or float32[N, H, W, C], as ``folded.layout`` says.

    Raises:
        InputError: ``pixels`` are something else.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != len(folded.axes):
        raise InputError(
            f"fold_preprocessing: an image has type {pixels.dtype} and shape {list(pixels.shape)}",
            "give images as uint8 [N, H, W, C]",
        )
    return np.ascontiguousarray(_normalized(pixels, folded).transpose(folded.axes))


def as_model_feed(
    feed: Feed, folded: FoldedPreprocessing | None, dtype: str | np.dtype | type[np.float32] = np.float32
) -> Feed:
    """A feed as the model itself takes it, whose images a graph prepares as ``folded`` says.

    Args:
        dtype: in which the model takes them.
    """
    if folded is None:
        return feed
    return {
        name: as_model_input(value, folded).astype(dtype) if folded.input in ("", name) else value
        for name, value in feed.items()
    }


def _normalized(pixels: np.ndarray, settings: ImageTransform | FoldedPreprocessing) -> np.ndarray:
    """(x / 255 - mean) / std in float32; ``pixels`` is uint8[..., C]."""
    channels = pixels.shape[-1]
    mean, std = (np.asarray(values[:channels], dtype=np.float32) for values in (settings.mean, settings.std))
    values: np.ndarray = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return values


def _refuse_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{path}: {width}x{height} pixels, more than the {MAX_PIXELS} an image may have or be resized to",
            "remove it or scale it down",
        )
