"""From what an application gives to the arrays that a model takes; errors name the input."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from trtpipe.backends import dlpack
from trtpipe.config.units import suggestion
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from trtpipe.delivery.record import Model, Range, Tensor

#: An array, an image or WAV file (a path, or its content in bytes) or a list of these for the one input; or input
#: name -> such a thing.
Given: TypeAlias = "Mapping[str, object] | object"
Array: TypeAlias = "np.ndarray | dlpack.DeviceTensor"


class Feeder:
    """Makes feeds for one model.

    Args:
        model: its inputs and their preprocessing.
        profiles: the optimization profiles of the plan; none for a static engine.
        device: number of the GPU that runs it; ``None`` for the CPU.
        stream: its CUDA stream.
    """

    def __init__(
        self,
        model: Model,
        profiles: Sequence[Mapping[str, Range]],
        device: int | None = None,
        stream: int = 0,
    ) -> None:
        self._model = model
        self._inputs = {tensor.name: tensor for tensor in model.inputs}
        self._prepared = {each.input: each for each in model.preprocessing}
        # what a profile holds of an input of fixed shape is a range of its values
        fixed = [each.name for each in model.inputs if each.shape is not None and each.shape == _lengths(each.shape)]
        self._by_value = {name for profile in profiles for name in profile if name in fixed}
        self._profiles = profiles
        self._device = device
        self._stream = stream

    def feed(self, given: Given) -> dict[str, Array]:
        """An array for every input, of its type and of shapes that the plan was built for.

        Raises:
            InputError: what is given does not fit; the message names the input.
            HostError: images are given, and Pillow is not installed.
        """
        values = given if isinstance(given, Mapping) else self._only(given)
        for name in values:
            if name not in self._inputs:
                raise InputError(f"the model has no input {name!r}", suggestion(str(name), self._inputs, "inputs here"))
        if missing := [name for name in self._inputs if name not in values]:
            raise InputError(f"input {missing[0]!r} is not given", f"give {', '.join(self._inputs)}")
        feed = {name: self._array(tensor, values[name]) for name, tensor in self._inputs.items()}
        for name, array in feed.items():
            _require_type(self._inputs[name], array)
        shapes = {name: tuple(array.shape) for name, array in feed.items()}
        self._require_shapes(shapes)
        self._require_profile({name: self._extent(name, feed[name]) for name in feed})
        return feed

    def _only(self, given: object) -> dict[str, object]:
        if len(self._inputs) != 1:
            raise InputError(
                f"the model has {len(self._inputs)} inputs, and one array is given",
                f"give a dict with an array for each of {', '.join(self._inputs)}",
            )
        return {next(iter(self._inputs)): given}

    def _array(self, tensor: Tensor, value: Any) -> Array:
        if isinstance(value, np.ndarray):
            return value
        if files := _files(value):
            return self._batch(tensor, files)
        place = dlpack.device_of(value)
        if place is None:
            raise InputError(
                f"input {tensor.name!r}: a {type(value).__name__} is no array",
                f"give a numpy array of {tensor.dtype}, an array with __dlpack__, or image or WAV files",
            )
        if place[0] != dlpack.CUDA:
            return _from_host(tensor, value)
        if self._device is None or place[1] != self._device:
            where = "the CPU" if self._device is None else f"GPU {self._device}"
            raise InputError(
                f"input {tensor.name!r}: in the memory of GPU {place[1]}, and the model runs on {where}",
                "move the array there",
            )
        return dlpack.imported(value, self._stream, f"input {tensor.name!r}")

    def _batch(self, tensor: Tensor, files: Sequence[_File]) -> np.ndarray:
        """Files as one batch, prepared as those of the calibration were."""
        known = self._prepared.get(tensor.name)
        if known is None:
            raise InputError(
                f"input {tensor.name!r} takes no files: the package does not say how they are prepared",
                f"give an array; or package with a description that has [inputs.{tensor.name}.image], or audio",
            )
        from trtpipe.backends.inference import numpy_type

        named = [file.path or Path(f"{known.takes} {index}") for index, file in enumerate(files)]
        arrays = [known.array(path, file.content) for path, file in zip(named, files, strict=True)]
        for path, array in zip(named, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise InputError(
                    f"input {tensor.name!r}: {path} becomes {_shown(array.shape)}, {named[0]} "
                    f"{_shown(arrays[0].shape)}: they do not make one batch",
                    f"give {known.takes}s of one size, or one at a time",
                )
        return np.stack(arrays).astype(numpy_type(tensor.dtype), copy=False)

    def _require_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        lengths: dict[str, tuple[int, str]] = {}
        for name, shape in shapes.items():
            wanted = self._inputs[name].shape
            if wanted is None:
                continue
            fits = len(wanted) == len(shape) and all(
                dim == size for dim, size in zip(wanted, shape, strict=True) if isinstance(dim, int)
            )
            if not fits:
                raise InputError(
                    f"input {name!r} has shape {_shown(shape)}, the model takes {self._inputs[name]}",
                    "bring the array into that shape (named and '?' dimensions may have any length)",
                )
            for dim, size in zip(wanted, shape, strict=True):
                if isinstance(dim, str) and lengths.setdefault(dim, (size, name))[0] != size:
                    first, other = lengths[dim]
                    raise InputError(
                        f"input {name!r}: dimension {dim} is {size} here and {first} in {other!r}",
                        "give both the same length",
                    )

    def _extent(self, name: str, array: Array) -> tuple[int, ...]:
        """What of an input an optimization profile limits: its shape, or its values."""
        if name not in self._by_value:
            return tuple(array.shape)
        if not isinstance(array, np.ndarray):
            raise InputError(f"input {name!r} decides shapes, and is on the GPU", "give it in host memory")
        return tuple(int(value) for value in array.ravel())

    def _require_profile(self, extents: Mapping[str, tuple[int, ...]]) -> None:
        if not self._profiles or any(_admits(profile, extents) for profile in self._profiles):
            return
        # what is wrong by the profile that names the fewest inputs to be so
        bad = min(([name for name in each if not _admits(each, extents, name)] for each in self._profiles), key=len)
        name = bad[0]
        what = "values" if name in self._by_value else "shape"
        pairs = [(each[name].min, each[name].max) for each in self._profiles if name in each]
        ranges = ", or ".join(f"{_shown(least)} to {_shown(most)}" for least, most in dict.fromkeys(pairs))
        raise InputError(
            f"input {name!r} has {what} {_shown(extents[name])}, outside what the plan was built for: {ranges}",
            f"give {what} inside, or build with wider ones",
        )


@dataclass(frozen=True)
class _File:
    """A file to decode: by its path, or its content, which has none."""

    path: Path | None
    content: IO[bytes] | None = None


def _files(value: object) -> list[_File]:
    """The files, where it is one or a list of them."""
    several: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(each, str | bytes | os.PathLike) for each in several):
        return []
    return [_File(None, BytesIO(each)) if isinstance(each, bytes) else _File(Path(each)) for each in several]


def _from_host(tensor: Tensor, value: Any) -> np.ndarray:
    """An array of another library in host memory, without a copy where numpy knows its type."""
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"input {tensor.name!r}: a {type(value).__name__} that numpy does not take: {error}",
            f"give a numpy array of {tensor.dtype}",
        ) from error


def _require_type(tensor: Tensor, array: Array) -> None:
    found = array.dtype if isinstance(array.dtype, str) else array.dtype.name
    if found != tensor.dtype:
        raise InputError(
            f"input {tensor.name!r} has type {found}, the model takes {tensor.dtype}",
            f"convert it, as with x.astype({tensor.dtype!r}); its values have to be those of training",
        )


def _admits(profile: Mapping[str, Range], extents: Mapping[str, tuple[int, ...]], only: str = "") -> bool:
    for name in [only] if only else profile:
        each, extent = profile[name], extents.get(name, ())
        inside = (low <= size <= high for low, size, high in zip(each.min, extent, each.max, strict=False))
        if len(each.min) != len(extent) or not all(inside):
            return False
    return True


def _lengths(shape: Sequence[object]) -> tuple[int, ...]:
    """The dimensions that are known."""
    return tuple(dim for dim in shape if isinstance(dim, int))


def _shown(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
