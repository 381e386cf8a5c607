"""What the tests of these packages share: contracts, settings, images and a progress that remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from trtpipe.artifact import IOContract, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MakeContract = Callable[..., IOContract]


@pytest.fixture
def contract() -> MakeContract:
    """Make a contract: ``contract(x=("float32", ("N", 3)))``."""

    def make(**inputs: tuple[str, tuple[int | str | None, ...] | None]) -> IOContract:
        specs = tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, (dtype, shape) in inputs.items())
        return IOContract(inputs=specs, outputs=())

    return make


@pytest.fixture
def picture() -> Callable[..., Path]:
    """Write an image whose red is the row, green the column and blue their sum (times 3, modulo 256)."""
    from PIL import Image

    def write(path: Path, height: int = 6, width: int = 8, mode: str = "RGB") -> Path:
        row, column = np.mgrid[:height, :width]
        pixels = np.stack([row, column, (row + column) * 3], axis=2).astype(np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(path)
        return path

    return write


class Listener:
    """A Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int | None]] = []

    def begin(self, step: str) -> None: ...
    def note(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...
    def end(self, step: str, outcome: str) -> None: ...

    def advance(self, phase: str, done: int, total: int | None) -> None:
        self.calls.append((phase, done, total))


@pytest.fixture
def listener() -> Listener:
    return Listener()
