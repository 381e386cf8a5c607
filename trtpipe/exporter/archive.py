"""Zip archives of programs: what they unpack to is known before anything of them is unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path

from trtpipe.config.units import format_bytes
from trtpipe.errors import InputError

#: torch stores its files uncompressed. Compressed by hand they may be a little larger, and small ones much larger.
_MOST_RATIO, _FREE_BYTES, _MOST_FILES = 8, 256 << 20, 1 << 20


def check_archive(path: Path) -> None:
    """Refuse an archive that is much larger than its file. What is no archive is left to whoever reads it.

    Raises:
        InputError: it is one; the message has both sizes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = archive.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return
    size, unpacked = path.stat().st_size, sum(file.file_size for file in files)
    if unpacked > _FREE_BYTES + _MOST_RATIO * size or len(files) > _MOST_FILES:
        raise InputError(
            f"{path}: {len(files)} files that unpack to {format_bytes(unpacked)} from {format_bytes(size)}",
            "save the program again with torch.export.save",
        )
