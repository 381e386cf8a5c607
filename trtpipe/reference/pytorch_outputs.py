"""Feeds and PyTorch's outputs for them, in one ``.npz`` file."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import numpy as np

from trtpipe.config.formats import HALF_FORMATS
from trtpipe.errors import InputError
from trtpipe.reference.feed_archive import read_feed_archive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtpipe.artifact import Feed


#: Formats of 16 bits that numpy itself does not have, by the name of their type.
_BITS = {form.storage: form for form in HALF_FORMATS if not form.cpu_kernels}


def save_reference(path: Path, feeds: Sequence[Feed], outputs: Sequence[Feed]) -> None:
    """Write feeds and the outputs for them as arrays ``<index>/in/<name>`` and ``<index>/out/<name>``; those of a type
    that numpy's files do not have as their bits, ``<index>/in:<type>/<name>``.
    """
    arrays = {}
    for side, everything in (("in", feeds), ("out", outputs)):
        for index, arrays_of_feed in enumerate(everything):
            for name, value in arrays_of_feed.items():
                own = value.dtype.name in _BITS
                kind = f"{side}:{value.dtype.name}" if own else side
                arrays[f"{index}/{kind}/{name}"] = value.view(np.uint16) if own else value
    with path.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def load_reference(path: Path) -> tuple[list[Feed], list[Feed]]:
    """Read feeds and outputs back, in their order.

    Raises:
        InputError: ``path`` is not such a file.
    """
    try:
        with path.open("rb") as stream:
            return read_reference(stream, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", "build again") from error


def read_reference(stream: IO[bytes], path: Path) -> tuple[list[Feed], list[Feed]]:
    """As ``load_reference``, from what is open already; ``path`` is for errors. Nothing is made that is larger than the
    file, whatever it says of itself.
    """
    try:
        return read_feed_archive(stream, lambda bits, _, kind: bits.view(_BITS[kind].dtype))
    except ValueError as error:
        raise InputError(f"{path}: not a file of reference outputs: {error}", "build again") from error
