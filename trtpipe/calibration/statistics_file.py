"""Statistics files: an ``.npz`` without pickle, equal bytes for equal statistics; and merging those of shards."""

from __future__ import annotations

import os
import tempfile
import zipfile
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from trtpipe.artifact import Record
from trtpipe.calibration.data_summary import DataSummary
from trtpipe.calibration.sample_outputs import SampleOutputs, SavedOutput
from trtpipe.calibration.statistics import Statistics
from trtpipe.calibration.statistics_arrays import ARRAYS, from_arrays, to_arrays
from trtpipe.config.paths import path_of, paths_of
from trtpipe.data.npz import opened, read_members, reading
from trtpipe.durable import plain_mode
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

_REMEDY = "use the file as trtpipe wrote it, or calibrate again"

#: array -> type. ``about`` is the JSON of _About.
_ARRAYS = {"about": np.uint8, "outputs": np.uint8, **ARRAYS}


class _About(Record):
    """The names of the tensors, the data the statistics are based on, and which outputs are kept."""

    SCHEMA: ClassVar[int] = 3

    tensors: tuple[str, ...]
    data_summaries: tuple[DataSummary, ...]
    outputs: tuple[SavedOutput, ...]


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write ``statistics`` to ``path``, uncompressed, only the filled bins.

    Raises:
        OSError: the file cannot be written.
    """
    kept, outputs = statistics.outputs.pack()
    about = _About(
        tensors=tuple(sorted(statistics.tensors)), data_summaries=statistics.data_summaries, outputs=kept
    ).to_file()
    arrays = {"about": np.frombuffer(about.encode(), np.uint8), "outputs": outputs, **to_arrays(statistics)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980 unless told otherwise
            entry.create_system = 3  # the same bytes on every system
            with archive.open(entry, "w") as stream:
                np.lib.format.write_array(stream, array, (1, 0), allow_pickle=False)


def load_statistics(path: Path) -> Statistics:
    """Read statistics back.

    Raises:
        InputError: not such a file, or its numbers contradict each other.
    """
    with reading(path), opened(path) as archive:  # uncompressed, so that no small file can ask for much memory
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise InputError(f"{path}: compressed, so not a statistics file", _REMEDY)
    members = read_members(path)
    if set(members) != set(_ARRAYS):
        raise InputError(f"{path}: not a statistics file", _REMEDY)
    arrays = {name: members[name].load() for name in _ARRAYS}
    for name, array in arrays.items():
        if array.dtype != _ARRAYS[name] or array.ndim != 1:
            raise InputError(f"{path}: array {name!r} is {array.dtype}{list(array.shape)}", _REMEDY)
    about = _About.parse(arrays["about"].tobytes(), path)
    try:
        found = from_arrays(about.tensors, arrays)
        outputs = SampleOutputs.unpack(about.outputs, arrays["outputs"])
    except (IndexError, ValueError, TypeError) as error:
        raise InputError(f"{path}: its numbers contradict each other", _REMEDY) from error
    return Statistics(found.tensors, about.data_summaries, outputs)


def load_outputs_of(path: Path) -> SampleOutputs:
    """What a statistics file holds of the model's outputs, without reading the statistics.

    Raises:
        InputError: not such a file.
    """
    members = read_members(path)
    if not {"about", "outputs"} <= set(members):
        raise InputError(f"{path}: not a statistics file", _REMEDY)
    about = _About.parse(members["about"].load().tobytes(), path)
    try:
        return SampleOutputs.unpack(about.outputs, members["outputs"].load())
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: its outputs contradict each other", _REMEDY) from error


def read_data_summary(path: Path) -> DataSummary | None:
    """What a statistics file says of the data, without reading the statistics; ``None`` if it says nothing.

    Raises:
        InputError: not such a file.
    """
    members = read_members(path)
    if "about" not in members:
        raise InputError(f"{path}: not a statistics file", _REMEDY)
    about = _About.parse(members["about"].load().tobytes(), path)
    return Statistics({}, about.data_summaries).data_summary


def merge_statistics(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Statistics:
    """Merge the statistics files of shards into ``out``: the same file as from one pass over all their samples.

    Args:
        paths: the files; their order does not matter.
        out: the file to write; replaced atomically.

    Raises:
        InputError: ``paths`` is no list of paths, or empty; a file is damaged; two are of different models, or of the
            same samples.
        OSError: ``out`` cannot be written.

    Example:
        >>> trtpipe.merge_statistics(["a/statistics.npz", "b/statistics.npz"], "merged.npz").samples
        64
    """
    files, out = paths_of(paths, "paths"), path_of(out, "out")
    if not files:
        raise InputError("no statistics to merge", "name at least one statistics.npz")
    parts: list[Statistics] = []
    origin: dict[str, Path] = {}
    for path in files:
        part = load_statistics(path)
        for summary in part.data_summaries:  # the same samples would count twice
            if summary.digest in origin:
                raise InputError(f"{path}: of the same samples as {origin[summary.digest]}", "name every shard once")
            origin[summary.digest] = path
        if parts and (different := sorted(parts[0].tensors.keys() ^ part.tensors.keys())):
            raise InputError(
                f"{path}: of another model than {files[0]}: tensor {different[0]!r} is in one of them only",
                "merge statistics that were collected on the same model with the same --keep",
            )
        parts.append(part)
    merged = reduce(Statistics.merge, parts)
    plain_mode(out)
    descriptor, name = tempfile.mkstemp(prefix=".trtpipe-", dir=out.parent)
    os.close(descriptor)
    try:
        save_statistics(merged, Path(name))
        Path(name).chmod(0o644)
        Path(name).replace(out)
    finally:
        Path(name).unlink(missing_ok=True)
    return merged
