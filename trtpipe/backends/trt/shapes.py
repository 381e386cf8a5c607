"""Checks optimization profiles against the inputs of a network: TensorRT silently accepts most mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtpipe.artifact import IOContract, TensorSpec
from trtpipe.config.shapes import check_shapes, is_dynamic
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.config.profile import OptimizationProfile


@dataclass(frozen=True)
class NetworkInput:
    """One input of a parsed network.

    Attributes:
        holds_shape: a shape tensor: its values determine shapes, so its profile holds values, not dimensions.
    """

    spec: TensorSpec
    holds_shape: bool

    @property
    def needs_range(self) -> bool:
        """Whether it needs an entry in every optimization profile."""
        return self.holds_shape or is_dynamic(self.spec)


def check_profiles(inputs: Sequence[NetworkInput], profiles: Sequence[OptimizationProfile], model: str) -> None:
    """Check that every profile fits the inputs of ``model``, as ``config.shapes`` does, and holds all values it needs.

    Raises:
        InputError: a range is missing, names no input, or contradicts the input's rank, its fixed dimensions or a
            dimension of the same name.
    """
    for entry in inputs:
        for profile in profiles or ({},):
            _check_values(entry, profile, model)
    try:
        check_shapes(IOContract(inputs=tuple(entry.spec for entry in inputs), outputs=()), profiles)
    except InputError as error:
        raise InputError(f"{model}: {error.message}", error.remedy) from error


def profiles_in_force(
    inputs: Sequence[NetworkInput], profiles: Sequence[OptimizationProfile]
) -> tuple[OptimizationProfile, ...]:
    """The part of ``profiles`` that the engine is built with: dynamic inputs and shape tensors."""
    needed = [entry.spec.name for entry in inputs if entry.needs_range]
    return tuple({name: profile[name] for name in needed} for profile in profiles) if needed else ()


def _check_values(entry: NetworkInput, profile: OptimizationProfile, model: str) -> None:
    """A shape tensor needs a range of values; another static input takes at most the value that resolved an If."""
    name, given = entry.spec.name, profile.get(entry.spec.name)
    count = (entry.spec.shape or (1,))[0]
    if entry.holds_shape and given is None:
        raise InputError(
            f"{model}: the values of input {name!r} determine shapes, and no range is given for them",
            f"give its min, opt and max values as its shapes, or make {name!r} a constant",
        )
    if entry.holds_shape and given is not None and len(given.opt) != count:
        raise InputError(
            f"{model}: shapes of input {name!r} are {len(given.opt)} values, the input holds {count}",
            f"give {count} values for {name!r}",
        )
    if not entry.needs_range and given is not None and given.min != given.max:
        raise InputError(f"{model}: input {entry.spec} is fixed, and a range is given for it", f"leave {name!r} out")
