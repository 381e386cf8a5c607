"""Samples from ``.npz`` and ``.npy`` files: one array per input, the first axis counts the samples."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from trtpipe.config.units import suggestion
from trtpipe.data.bad_samples import BadSample, good_samples, try_sample
from trtpipe.data.batching import BatchedDataset
from trtpipe.data.input_checks import checked, free_batch, static_batch
from trtpipe.data.npz import read_header, read_members, reading
from trtpipe.data.sample import Sample, content_digests
from trtpipe.data.selection import select
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from trtpipe.artifact import IOContract, TensorSpec
    from trtpipe.config.recipe import DataSettings
    from trtpipe.data.sample import Dataset


@dataclass(frozen=True)
class SampleArray:
    """One array of samples: its shape, and how to read rows in ascending order."""

    shape: tuple[int, ...]
    rows: Callable[[Iterable[int]], Generator[np.ndarray, None, None]]


def open_npz(data: DataSettings, contract: IOContract) -> Dataset:
    """Samples from an ``.npz`` with one array for each input, and the labels where the recipe names them.

    Raises:
        InputError: the file is damaged, an array is missing or unknown, or shapes do not fit.
    """
    path = Path(data.source)
    arrays = {name: SampleArray(member.shape, member.rows) for name, member in read_members(path).items()}
    return open_arrays(data, contract, arrays)


def open_arrays(data: DataSettings, contract: IOContract, arrays: dict[str, SampleArray]) -> Dataset:
    """Samples from named arrays: one for each input, and the labels where the recipe names them.

    Raises:
        InputError: an array is missing or unknown, or shapes do not fit.
    """
    path = Path(data.source)
    inputs = [spec.name for spec in contract.inputs]
    if data.labels and data.labels not in arrays:
        remedy = suggestion(data.labels, arrays, "arrays here")
        raise InputError(f"{path}: no array {data.labels!r} for the labels", remedy)
    for name in arrays:
        if name not in inputs and name != data.labels:
            remedy = suggestion(name, inputs, "inputs here")
            raise InputError(
                f"{path}: array {name!r} is not an input of the model",
                f"{remedy}; if it holds the labels, set labels = {name!r} under [data] of the recipe",
            )
    if missing := [name for name in inputs if name not in arrays]:
        raise InputError(f"{path}: no array for input {missing[0]!r}", suggestion(missing[0], arrays, "arrays here"))
    labels = arrays[data.labels] if data.labels else None
    return _dataset(data, contract, {name: arrays[name] for name in inputs}, labels)


def open_npy(data: DataSettings, contract: IOContract) -> Dataset:
    """Samples from an ``.npy`` file, memory-mapped, for a model with one input.

    Raises:
        InputError: the file is damaged, the model has more than one input, or shapes do not fit.
    """
    path = Path(data.source)
    if len(contract.inputs) != 1:
        names = ", ".join(spec.name for spec in contract.inputs)
        raise InputError(
            f"{path}: an .npy file feeds one input, the model has {len(contract.inputs)}: {names}",
            "give an .npz file with one array for each input",
        )
    with reading(path):
        with path.open("rb") as stream:
            header = read_header(stream, path.stat().st_size, f"{path}: the array")
        order: Literal["C", "F"] = "F" if header.fortran else "C"
        array = np.memmap(path, header.dtype, "r", header.length, header.shape, order)

    def rows(indices: Iterable[int]) -> Generator[np.ndarray, None, None]:
        yield from (np.array(array[index, ...]) for index in indices)

    return _dataset(data, contract, {contract.inputs[0].name: SampleArray(array.shape, rows)}, None)


def _dataset(
    data: DataSettings, contract: IOContract, arrays: dict[str, SampleArray], labels: SampleArray | None
) -> Dataset:
    path = Path(data.source)
    total = _common_length(path, arrays, labels)
    batch_axis = _has_batch_axis(path, arrays, contract.inputs)
    if batch_axis:  # every row is a feed: nothing to batch
        selection = select(total, data.model_copy(update={"batch": 1}), None, str(path))
        expected = contract
    else:
        selection = select(total, data, static_batch(contract), str(path))
        expected = free_batch(contract)

    def rows(array: SampleArray, stack: ExitStack) -> Iterator[np.ndarray]:
        return stack.enter_context(closing(array.rows(selection.indices)))

    def read() -> Generator[Sample | BadSample, None, None]:
        with ExitStack() as stack:
            streams = [rows(array, stack) for array in arrays.values()]
            classes: Iterator[np.ndarray | None] = rows(labels, stack) if labels else repeat(None)
            for position, (index, label, *values) in enumerate(zip(selection.indices, classes, *streams, strict=False)):
                several = label is not None and label.ndim and not batch_axis  # several numbers per sample
                sample = Sample(dict(zip(arrays, values, strict=True)), label[np.newaxis] if several else label)
                yield try_sample(position, partial(checked, sample, expected, f"{path}: row {index}"))

    return BatchedDataset(
        title=path.name,
        selection=selection,
        read=read,
        content=lambda: content_digests(good_samples(read(), data.skip_bad_samples, [])),
        rows=batch_axis or 1,
    )


def _common_length(path: Path, arrays: dict[str, SampleArray], labels: SampleArray | None) -> int:
    lengths: dict[str, int] = {}
    for name, array in {**arrays, **({"the labels": labels} if labels else {})}.items():
        if not array.shape:
            raise InputError(f"{path}: array {name!r} is a single number", "store samples along the first axis")
        lengths[name] = array.shape[0]
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise InputError(
            f"{path}: arrays have different numbers of samples ({found})", "store one row per sample in each"
        )
    return next(iter(lengths.values()), 0)


def _has_batch_axis(path: Path, arrays: dict[str, SampleArray], specs: tuple[TensorSpec, ...]) -> int:
    """Length of the batch axis inside the rows of an array; 0 if all rows are single samples.

    Raises:
        InputError: an array has too many or too few axes for its input.
    """
    found = 0
    for spec in specs:
        shape = arrays[spec.name].shape
        if spec.shape is None or len(shape) == len(spec.shape):
            continue
        if len(shape) != len(spec.shape) + 1:
            raise InputError(
                f"{path}: array {spec.name!r} has shape {list(shape)}, the model takes {spec}",
                f"store samples along the first axis, each of shape {list(spec.shape[1:])}",
            )
        found = found or (shape[1] if spec.shape else 1)
    return found
