"""Statistics at rest: an ``.npz`` without pickle. Equal statistics give equal bytes."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import ValidationError

from trtpipe.artifact import Record
from trtpipe.calibration.account import DataAccount
from trtpipe.calibration.npz import opened, read_members, reading
from trtpipe.calibration.statistics import BINS, Statistics, TensorStatistics
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

_REMEDY = "use the file as trtpipe wrote it, or calibrate again"

#: array -> type. One entry a tensor, but ``bins`` and ``counts``: the filled bins of all tensors, one after the
#: other; ``ends`` says where each tensor's end. ``about`` is the JSON of _About.
_ARRAYS = {
    "about": np.uint8,
    "count": np.int64,
    "zeros": np.int64,
    "nonfinite": np.int64,
    "minimum": np.float32,
    "maximum": np.float32,
    "ends": np.int64,
    "bins": np.uint16,
    "counts": np.int64,
}


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
    names = sorted(statistics.tensors)
    tensors = [statistics.tensors[name] for name in names]
    filled = [np.flatnonzero(tensor.histogram) for tensor in tensors]
    about = _About(tensors=tuple(names), accounts=statistics.accounts).to_json()
    columns = {
        "about": list(about.encode()),
        "count": [tensor.count for tensor in tensors],
        "zeros": [tensor.zeros for tensor in tensors],
        "nonfinite": [tensor.nonfinite for tensor in tensors],
        "minimum": [tensor.minimum for tensor in tensors],
        "maximum": [tensor.maximum for tensor in tensors],
        "ends": np.cumsum([bins.size for bins in filled]),
        "bins": np.concatenate([np.empty(0, int), *filled]),
        "counts": np.concatenate(
            [np.empty(0, int), *(t.histogram[bins] for t, bins in zip(tensors, filled, strict=True))]
        ),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, dtype in _ARRAYS.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980 unless told otherwise
            entry.create_system = 3  # the same bytes on every system
            with archive.open(entry, "w") as stream:
                np.lib.format.write_array(stream, np.asarray(columns[name], dtype), (1, 0), allow_pickle=False)


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
        tensors = {name: _tensor(arrays, number) for number, name in enumerate(about.tensors)}
        _require(len(tensors) == len(about.tensors) and _lengths_agree(arrays, len(tensors)))
    except (IndexError, ValueError) as error:
        raise InputError(f"{path}: its numbers contradict each other", _REMEDY) from error
    return Statistics(tensors, about.accounts)


def _refuse_compressed(path: Path) -> None:
    """Ours are stored as they are; so no small file can ask for much memory."""
    with reading(path), opened(path) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise InputError(f"{path}: compressed, so not a statistics file", _REMEDY)


def _tensor(arrays: dict[str, np.ndarray], number: int) -> TensorStatistics:
    """The statistics of one tensor.

    Raises:
        IndexError, ValueError: they cannot be those of any tensor.
    """
    begin, end = (int(arrays["ends"][number - 1]) if number else 0), int(arrays["ends"][number])
    bins, counts = arrays["bins"][begin:end].astype(np.intp), arrays["counts"][begin:end]
    _require(0 <= begin <= end <= len(arrays["bins"]) == len(arrays["counts"]))
    _require(bool(np.all(np.diff(bins) > 0) and np.all(counts > 0) and np.all(bins < BINS)))
    tensor = TensorStatistics(
        count=int(arrays["count"][number]),
        zeros=int(arrays["zeros"][number]),
        nonfinite=int(arrays["nonfinite"][number]),
        minimum=float(arrays["minimum"][number]),
        maximum=float(arrays["maximum"][number]),
    )
    tensor.histogram[bins] = counts
    _require(tensor.nonfinite >= 0 and tensor.count == sum(counts.tolist()))
    _require(0 <= tensor.zeros <= int(tensor.histogram[0]))
    if tensor.count:
        top = int(np.float32(tensor.largest).view(np.uint32)) >> 16
        _require(tensor.minimum <= tensor.maximum and top >= int(bins[-1]))
    else:
        _require(tensor.minimum == np.inf and tensor.maximum == -np.inf)
    return tensor


def _lengths_agree(arrays: dict[str, np.ndarray], tensors: int) -> bool:
    used = int(arrays["ends"][-1]) if tensors else 0
    each = ("count", "zeros", "nonfinite", "minimum", "maximum", "ends")
    return all(len(arrays[name]) == tensors for name in each) and len(arrays["bins"]) == used


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError
