"""How an image becomes a tensor, as plain data: what calibration applies, a package holds, and the runtime applies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ImageTransform:
    """From an image file to a tensor; the fields are those of ``trtpipe.config.recipe.ImageSettings``, which says what
    they mean, and ``mean`` and ``std`` have a value for each channel.

    Raises:
        ValueError: a value that no image can be prepared with.
    """

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    letterbox: tuple[int, int] | None = None
    pad: tuple[int, int] | None = None
    fill: int = 114
    channels: Literal["RGB", "BGR", "L"] = "RGB"
    layout: Literal["CHW", "HWC"] = "CHW"
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        sizes = [self.resize] if isinstance(self.resize, int) else [*(self.resize or ())]
        for size in (self.crop, self.letterbox, self.pad):
            sizes += size or ()
        if any(size < 1 for size in sizes):
            raise ValueError("a length in pixels is less than 1")
        if not 0 <= self.fill <= 255:
            raise ValueError(f"fill is {self.fill}, which is no pixel value")
        wanted = 1 if self.channels == "L" else 3
        if len(self.mean) != wanted or len(self.std) != wanted or any(value <= 0 for value in self.std):
            raise ValueError(f"mean and std need {wanted} value(s), and every std has to be greater than 0")

    @property
    def shape(self) -> tuple[int | None, int | None, int | None]:
        """Of the tensor, without batch axis, in the order of ``layout``; ``None`` for what depends on the image."""
        sizes = (self.letterbox, self.pad, self.crop, None if isinstance(self.resize, int) else self.resize)
        height, width = next((size for size in sizes if size is not None), (None, None))
        channels = 1 if self.channels == "L" else 3
        return (channels, height, width) if self.layout == "CHW" else (height, width, channels)
