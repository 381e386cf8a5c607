"""Seeded random feeds, for runs without data. Calibration data only if the user asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.config.shapes import gives_values
from trtpipe.config.units import suggestion
from trtpipe.data.input_checks import is_float, numpy_type
from trtpipe.data.sample import Sample, content_digests
from trtpipe.data.selection import no_samples
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from trtpipe.artifact import IOContract, TensorSpec
    from trtpipe.data.sample import ContentDigests, Skipped


class RandomDataset:
    """Synthetic feeds: floats uniform in [0, 1), integers 0 or 1, and booleans.

    Args:
        contract: the model's inputs.
        shapes: input name -> shape, for inputs with dynamic dimensions; a dimension not given is 1. For an input whose
            values decide shapes, its values.
        samples: number of feeds, each of the full shape.
        seed: equal seeds give equal feeds.
        others: more such shapes; the feeds use them in turn.

    Raises:
        InputError: a shape does not fit the model, an input's rank is unknown, or there are no samples.
    """

    preprocessing = None
    classes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def __init__(
        self,
        contract: IOContract,
        shapes: Mapping[str, tuple[int, ...]],
        samples: int,
        seed: int = 0,
        others: Sequence[Mapping[str, tuple[int, ...]]] = (),
    ) -> None:
        self._layouts = [_layout(contract, each) for each in (shapes, *others)]
        self.size = samples
        self.seed = seed
        if samples < 1:
            raise no_samples(self.name)

    @property
    def name(self) -> str:
        return f"synthetic, seeded random ({self.size} feeds, seed {self.seed})"

    @property
    def samples(self) -> int:
        rows = [next((each.shape[0] for each in layout.values() if each.shape), 1) for layout in self._layouts]
        return sum(rows[index % len(rows)] for index in range(self.size))

    def __iter__(self) -> Generator[Sample, None, None]:
        """The feeds; each depends only on the seed and its index."""
        for index in range(self.size):
            yield self._feed(index)

    def digests(self) -> ContentDigests:
        return self._digests

    @cached_property
    def _digests(self) -> ContentDigests:
        return content_digests(self)

    def _feed(self, index: int) -> Sample:
        generator = np.random.Generator(np.random.PCG64([self.seed, index]))
        layout = self._layouts[index % len(self._layouts)]
        return Sample({name: each.values(generator) for name, each in layout.items()})


@dataclass(frozen=True)
class _Input:
    """How the values of one input are made: random, unless they are given."""

    shape: tuple[int, ...]
    dtype: np.dtype
    given: tuple[int, ...] | None = None

    def values(self, generator: np.random.Generator) -> np.ndarray:
        if self.given is not None:
            return np.array(self.given, self.dtype).reshape(self.shape)
        if is_float(self.dtype):
            return generator.random(self.shape, dtype=np.float32).astype(self.dtype)
        return generator.integers(0, 2, self.shape).astype(self.dtype)


def _layout(contract: IOContract, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, _Input]:
    names = [spec.name for spec in contract.inputs]
    if unknown := [name for name in shapes if name not in names]:
        raise InputError(f"the model has no input {unknown[0]!r}", suggestion(unknown[0], names, "inputs here"))
    return {spec.name: _input(spec, shapes.get(spec.name)) for spec in contract.inputs}


def _input(spec: TensorSpec, given: tuple[int, ...] | None) -> _Input:
    dtype = numpy_type(spec, "synthetic data")
    if given is not None and spec.shape is not None and gives_values(spec.dtype, spec.shape, given):
        return _Input(_resolved(spec, None), dtype, given)
    return _Input(_resolved(spec, given), dtype)


def _resolved(spec: TensorSpec, given: tuple[int, ...] | None) -> tuple[int, ...]:
    """The input's shape with every dimension known."""
    if given is None:
        if spec.shape is None:
            raise InputError(
                f"the rank of input {spec.name!r} is unknown", f"give its shape, as {spec.name}:1x3x224x224"
            )
        return tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)
    fits = spec.shape is None or (
        len(given) == len(spec.shape)
        and all(have == dim for have, dim in zip(given, spec.shape, strict=True) if isinstance(dim, int))
    )
    if not fits or min(given, default=0) < 0:
        raise InputError(f"shape {list(given)} does not fit input {spec}", "give a shape the model takes")
    return given
