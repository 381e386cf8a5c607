"""Feeds and PyTorch's outputs for them, in one ``.npz`` file."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtpipe.artifact import Feed


def save_reference(path: Path, feeds: Sequence[Feed], outputs: Sequence[Feed]) -> None:
    """Write feeds and the outputs for them as arrays ``<index>/in/<name>`` and ``<index>/out/<name>``."""
    arrays = {f"{i}/in/{name}": value for i, feed in enumerate(feeds) for name, value in feed.items()}
    arrays |= {f"{i}/out/{name}": value for i, found in enumerate(outputs) for name, value in found.items()}
    with path.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def load_reference(path: Path) -> tuple[list[Feed], list[Feed]]:
    """Read feeds and outputs back, in their order.

    Raises:
        InputError: ``path`` is not such a file.
    """
    sides: dict[str, list[Feed]] = {"in": [], "out": []}
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            for key in file.files:
                index, side, name = key.split("/", 2)
                found = sides[side]
                found += [{} for _ in range(int(index) + 1 - len(found))]
                found[int(index)][name] = file[key]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(f"{path}: not a file of reference outputs: {error}", "build again") from error
    return sides["in"], sides["out"]
