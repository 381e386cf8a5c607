"""Statistics at rest: an ``.npz`` without pickle. Equal statistics give equal bytes."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import ValidationError

from trtpipe.artifact import Record
from trtpipe.calibration.data_summary import DataAccount
from trtpipe.calibration.statistics import Statistics
from trtpipe.calibration.statistics_arrays import COLUMNS, from_columns, to_columns
from trtpipe.data.npz import opened, read_members, reading
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

_REMEDY = "use the file as trtpipe wrote it, or calibrate again"

#: array -> type. ``about`` is the JSON of _About.
_ARRAYS = {"about": np.uint8, **COLUMNS}


class _About(Record):
    """What the arrays do not say: whose they are, and on which data they were found."""

    schema_version: Literal[1] = 1
    tensors: tuple[str, ...]
    accounts: tuple[DataAccount, ...]


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write ``statistics`` to ``path``, uncompressed, only the filled bins.

    Raises:
        OSError: the file cannot be written.
    """
    about = _About(tensors=tuple(sorted(statistics.tensors)), accounts=statistics.accounts).to_json()
    arrays = {"about": np.frombuffer(about.encode(), np.uint8), **to_columns(statistics)}
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
    _refuse_compressed(path)
    members = read_members(path)
    if set(members) != set(_ARRAYS):
        raise InputError(f"{path}: not a statistics file", _REMEDY)
    arrays = {name: members[name].load() for name in _ARRAYS}
    for name, array in arrays.items():
        if array.dtype != _ARRAYS[name] or array.ndim != 1:
            raise InputError(f"{path}: array {name!r} is {array.dtype}{list(array.shape)}", _REMEDY)
    try:
        about = _About.model_validate_json(arrays["about"].tobytes())
    except ValidationError as error:
        raise InputError(f"{path}: its description is damaged: {error.errors()[0]['msg']}", _REMEDY) from error
    try:
        found = from_columns(about.tensors, arrays)
    except (IndexError, ValueError) as error:
        raise InputError(f"{path}: its numbers contradict each other", _REMEDY) from error
    return Statistics(found.tensors, about.accounts)


def _refuse_compressed(path: Path) -> None:
    """Ours are stored as they are; so no small file can ask for much memory."""
    with reading(path), opened(path) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise InputError(f"{path}: compressed, so not a statistics file", _REMEDY)
