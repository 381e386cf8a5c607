"""Statistics of shards, collected anywhere, become those of the whole."""

from __future__ import annotations

import os
import tempfile
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from trtpipe.calibration.statistics import Statistics
from trtpipe.calibration.statistics_file import load_statistics, save_statistics
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def merge_statistics(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Statistics:
    """Merge statistics files into ``out``: exactly the file that one pass over all their samples would have given.

    The order of ``paths`` does not matter. ``out`` is replaced whole, or left as it was.

    Raises:
        InputError: there are no files, one is damaged, two are of different models, or two rest on the same samples.
        OSError: ``out`` cannot be written.
    """
    if not paths:
        raise InputError("no statistics to merge", "name at least one statistics.npz")
    files, out = [Path(path) for path in paths], Path(out)
    parts: list[Statistics] = []
    origin: dict[str, Path] = {}
    for path in files:
        part = load_statistics(path)
        _refuse_twice(part, path, origin)
        if parts and (different := sorted(parts[0].tensors.keys() ^ part.tensors.keys())):
            raise InputError(
                f"{path}: of another model than {files[0]}: tensor {different[0]!r} is in one of them only",
                "merge statistics that were collected on the same model with the same --keep",
            )
        parts.append(part)
    merged = reduce(Statistics.merge, parts)
    descriptor, name = tempfile.mkstemp(prefix=".trtpipe-", dir=out.parent)
    os.close(descriptor)
    try:
        save_statistics(merged, Path(name))
        Path(name).chmod(0o644)
        Path(name).replace(out)
    finally:
        Path(name).unlink(missing_ok=True)
    return merged


def _refuse_twice(part: Statistics, path: Path, origin: dict[str, Path]) -> None:
    """The same samples would count twice without anybody noticing."""
    for account in part.accounts:
        if account.digest in origin:
            raise InputError(f"{path}: rests on the same samples as {origin[account.digest]}", "name every shard once")
        origin[account.digest] = path
