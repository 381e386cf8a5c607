"""The input shapes and values of a measurement."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from trtpipe.artifact import IOContract
from trtpipe.config.shapes import gives_values
from trtpipe.data.synthetic import RandomDataset
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.artifact import Feed, TensorSpec
    from trtpipe.data.sample import Dataset

    Shapes: TypeAlias = dict[str, tuple[int, ...]]

#: Samples that are looked at for one without empty arrays.
_LOOKED_AT = 64


@dataclass(frozen=True)
class InputSource:
    """Where input values come from.

    Attributes:
        sample: a real sample; ``None``: there is no data.
        name: of the data set.
        number: of the sample, from 0.
    """

    sample: Feed | None = None
    name: str = ""
    number: int = 0

    @classmethod
    def of(cls, dataset: Dataset | None) -> InputSource:
        """The first sample of a data set in which no array is empty, else the first of all; none for random data."""
        if dataset is None or isinstance(dataset, RandomDataset):
            return cls()
        number, first = 0, None
        with closing(iter(dataset)) as samples:
            for index, sample in enumerate(islice(samples, _LOOKED_AT)):
                first = sample.feed if first is None else first
                if all(value.size for value in sample.feed.values()):
                    number, first = index, sample.feed
                    break
        return cls() if first is None else cls(first, dataset.name, number)

    def feed(self, inputs: Sequence[TensorSpec], shapes: Shapes) -> tuple[Feed, str]:
        """Values of these shapes, and a description of them.

        A real sample is cropped or tiled along every axis: its values stay realistic, and indices into tables stay in
        range. Without one, and for an array that is empty in the sample, floats are uniform in [0, 1) and integers 0
        or 1.

        Raises:
            InputError: a shape fits neither the model nor the sample.
        """
        if self.sample is None:
            random = RandomDataset(IOContract(inputs=tuple(inputs), outputs=()), shapes, samples=1, seed=0)
            return next(iter(random)).feed, "synthetic: floats uniform in [0, 1), integers 0 or 1"
        fitted = {spec.name: _fitted(spec, self.sample[spec.name], shapes[spec.name]) for spec in inputs}
        as_it_is = all(fitted[name].shape == value.shape for name, value in self.sample.items())
        which = f"sample {self.number + 1}" if self.number else "first sample"
        return fitted, f"{which} of {self.name}{'' if as_it_is else ', cropped or tiled to the shape'}"


def points(
    inputs: Sequence[TensorSpec], opt_shapes: Sequence[Mapping[str, tuple[int, ...]]], sample: Feed | None,
    batches: Sequence[int],
) -> tuple[Shapes, ...]:  # fmt: skip
    """The shapes to measure: all opt shapes, at every batch size.

    Args:
        inputs: of the model. The batch is every dynamic dimension with the name of the first input's first dimension;
            without names, every dynamic first dimension.
        opt_shapes: of every optimization profile, or as the user asked; inputs may be missing.
        sample: gives the shapes of inputs that are missing there.
        batches: batch sizes; empty: those of ``opt_shapes``.

    Raises:
        InputError: batch sizes are given and the model has a fixed one, or an input's rank is unknown.
    """
    found = []
    for known in opt_shapes or ({},):
        shapes = {spec.name: _shape(spec, known, sample) for spec in inputs}
        found += [_with_batch(inputs, shapes, batch) for batch in batches] or [shapes]
    return tuple(shapes for index, shapes in enumerate(found) if shapes not in found[:index])


def _shape(spec: TensorSpec, known: Mapping[str, tuple[int, ...]], sample: Feed | None) -> tuple[int, ...]:
    if spec.name in known:
        return tuple(known[spec.name])
    if sample is not None:
        return sample[spec.name].shape
    if spec.shape is None:
        raise InputError(
            f"the rank of input {spec.name!r} is unknown", f"give its shape: --shapes {spec.name}:1x3x224x224"
        )
    return tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)


def _with_batch(inputs: Sequence[TensorSpec], shapes: Shapes, batch: int) -> Shapes:
    firsts = [spec.shape[0] for spec in inputs if spec.shape and not isinstance(spec.shape[0], int)]
    if not firsts:
        raise InputError("the batch size is fixed in the model", "export it with a dynamic batch, or omit --batch")
    symbol = firsts[0]

    def length(spec: TensorSpec, axis: int, now: int) -> int:
        dim = (spec.shape or ())[axis] if spec.shape else None
        is_batch = dim == symbol if isinstance(symbol, str) else axis == 0 and not isinstance(dim, int)
        return batch if is_batch else now

    return {spec.name: tuple(length(spec, axis, now) for axis, now in enumerate(shapes[spec.name])) for spec in inputs}


def _fitted(spec: TensorSpec, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``value`` cropped or tiled along every axis; the given values for a shape tensor."""
    if spec.shape is not None and gives_values(spec.dtype, spec.shape, shape):
        return np.array(shape, value.dtype).reshape(value.shape)
    if value.ndim != len(shape):
        raise InputError(
            f"input {spec.name!r}: a sample of shape {list(value.shape)} cannot fill {list(shape)}",
            "correct the shapes",
        )
    if 0 in value.shape:
        contract = IOContract(inputs=(spec,), outputs=())
        return next(iter(RandomDataset(contract, {spec.name: shape}, samples=1, seed=0))).feed[spec.name]
    for axis, length in enumerate(shape):
        if value.shape[axis] != length:
            value = np.take(value, np.arange(length) % value.shape[axis], axis)
    return value
