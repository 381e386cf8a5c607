"""Checks optimization profiles against the inputs of a network: TensorRT silently accepts most mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.config.profile import OptimizationProfile, ShapeRange


@dataclass(frozen=True)
class NetworkInput:
    """One input of a parsed network.

    Attributes:
        dims: the length of each dimension, -1 where it is dynamic.
        names: the symbolic name of each dimension, if it has one.
        holds_shape: a shape tensor: its values determine shapes, so its profile holds values, not dimensions.
    """

    name: str
    dims: tuple[int, ...]
    names: tuple[str | None, ...]
    holds_shape: bool

    @property
    def needs_range(self) -> bool:
        """Whether it needs an entry in every optimization profile."""
        return self.holds_shape or -1 in self.dims

    def __str__(self) -> str:
        return "x".join(str(dim) if dim >= 0 else name or "?" for dim, name in zip(self.dims, self.names, strict=True))


def check_shapes(inputs: Sequence[NetworkInput], profiles: Sequence[OptimizationProfile], model: str) -> None:
    """Check that every profile fits the inputs of ``model``.

    Raises:
        InputError: a range is missing, names no input, or contradicts the input's rank, its fixed dimensions or a
            dimension of the same name.
    """
    by_name = {entry.name: entry for entry in inputs}
    for profile in profiles or ({},):
        for name in profile:
            if name not in by_name:
                raise _unknown(name, list(by_name), model)
        for entry in inputs:
            given = profile.get(entry.name)
            if given is not None:
                _check_range(entry, given, model)
            elif entry.needs_range:
                raise _missing(entry, model)
        _check_names(inputs, profile, model)


def profiles_in_force(
    inputs: Sequence[NetworkInput], profiles: Sequence[OptimizationProfile]
) -> tuple[OptimizationProfile, ...]:
    """The part of ``profiles`` that the engine is built with: dynamic inputs and shape tensors."""
    needed = [entry.name for entry in inputs if entry.needs_range]
    return tuple({name: profile[name] for name in needed} for profile in profiles) if needed else ()


def _unknown(name: str, inputs: list[str], model: str) -> InputError:
    lowered = {known.lower(): known for known in inputs}
    near = get_close_matches(name.lower(), lowered, n=1, cutoff=0.4)
    hint = f"did you mean {lowered[near[0]]!r}? " if near else ""
    return InputError(
        f"{model}: shapes are given for {name!r}, which is no input", f"{hint}inputs: {', '.join(inputs)}"
    )


def _missing(entry: NetworkInput, model: str) -> InputError:
    if entry.holds_shape:
        return InputError(
            f"{model}: the values of input {entry.name!r} determine shapes, and no range is given for them",
            f"give its min, opt and max values as its shapes, or make {entry.name!r} a constant",
        )
    example = "x".join(str(dim) if dim >= 0 else "1" for dim in entry.dims)
    return InputError(
        f"{model}: input {entry.name!r} ({entry}) is dynamic, and no shapes are given for it",
        f"give --min-shapes {entry.name}:{example} and likewise --opt-shapes and --max-shapes",
    )


def _check_range(entry: NetworkInput, given: ShapeRange, model: str) -> None:
    place = f"{model}: shapes of input {entry.name!r}"
    count = entry.dims[0] if entry.dims else 1
    if not entry.needs_range and len(entry.dims) < 2 and len(given.opt) == count and given.min == given.max:
        return  # values that resolved an If before the build
    if entry.holds_shape:
        if len(given.opt) != count:
            raise InputError(
                f"{place} are {len(given.opt)} values, the input holds {count}",
                f"give {count} values for {entry.name!r}",
            )
        return
    if len(given.opt) != len(entry.dims):
        raise InputError(
            f"{place} have {len(given.opt)} dimensions, the model has {len(entry.dims)} ({entry})",
            f"give {len(entry.dims)} dimensions",
        )
    for axis, dim in enumerate(entry.dims):
        low, high = given.min[axis], given.max[axis]
        if dim >= 0 and not low == high == dim:
            span = str(low) if low == high else f"{low} to {high}"
            raise InputError(
                f"{place}: dimension {axis} is {span}, but the model fixes it at {dim}",
                f"write {dim} there, or export the model with that dimension dynamic",
            )


def _check_names(inputs: Sequence[NetworkInput], profile: OptimizationProfile, model: str) -> None:
    """Dimensions of one name are equal at run time, so they need equal ranges."""
    seen: dict[str, tuple[str, tuple[int, int, int]]] = {}
    for entry in inputs:
        given = profile.get(entry.name)
        if given is None or entry.holds_shape:
            continue
        for axis, name in enumerate(entry.names):
            if name is None or entry.dims[axis] >= 0:
                continue
            span = given.min[axis], given.opt[axis], given.max[axis]
            first, wanted = seen.setdefault(name, (entry.name, span))
            if span != wanted:
                raise InputError(
                    f"{model}: dimension {name!r} is {_span(wanted)} in {first!r} but {_span(span)} in {entry.name!r}",
                    f"give {name!r} the same min, opt and max in both",
                )


def _span(span: tuple[int, int, int]) -> str:
    return "/".join(map(str, span))
