"""Samples from an HDF5 file: one dataset per input at the top level, the first axis counts the samples."""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.config.requirements import require
from trtpipe.data.arrays import SampleArray, open_arrays
from trtpipe.data.npz import reading
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from trtpipe.artifact import IOContract
    from trtpipe.config.recipe import DataSettings
    from trtpipe.data.sample import Dataset

_MOST_BYTES = 4 << 30


def open_hdf5(data: DataSettings, contract: IOContract) -> Dataset:
    """Samples from an HDF5 file, read row by row. Nothing outside the file is opened.

    Raises:
        InputError: the file is damaged, refers to other files, a dataset is missing or unknown, or does not fit.
        HostError: h5py is not installed.
    """
    require("h5py", "reading HDF5", "hdf5")
    path = Path(data.source)
    with _reading(path) as file:
        arrays = {name: _array(path, file, name) for name in file}
    return open_arrays(data, contract, arrays)


def _array(path: Path, file: Any, name: str) -> SampleArray:
    import h5py

    where = f"{path}: dataset {name!r}"
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{where} is a link", "store the datasets themselves in the file")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{path}: {name!r} is a group", "store one dataset for each input at the top level")
    if found.external or found.is_virtual:
        raise InputError(f"{where} keeps its values in another file", "store the values in the file itself")
    if found.dtype.kind not in "biuf":
        raise InputError(f"{where} has type {found.dtype}", "store numbers")
    if found.dtype.itemsize * math.prod(found.shape[1:] or (1,)) > _MOST_BYTES:
        raise InputError(f"{where}: one sample takes more than 4 GiB", "store the samples along the first axis")
    return SampleArray(tuple(found.shape), partial(_rows, path, name))


def _rows(path: Path, name: str, indices: Iterable[int]) -> Generator[np.ndarray, None, None]:
    with _reading(path) as file:
        for index in indices:
            yield np.asarray(file[name][index])


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The open file; every error of a damaged one becomes an InputError that names it."""
    import h5py

    damage = (OSError, RuntimeError, KeyError, ValueError)
    with reading(path, damage, "write the file again with h5py"), h5py.File(path, "r") as file:
        yield file
