"""Which dimension of an input brings it about that a model does not work at some shapes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.preflight.onnx_io import named_dimension

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from trtpipe.config.profile import ShapeRange
    from trtpipe.dynamic.walk import Shape, Walker

#: (input, axis)
Place: TypeAlias = "tuple[str, int]"

#: The search ends after this time: the node alone is named then.
_SECONDS = 20.0


@dataclass(frozen=True)
class Cause:
    """Dimensions to blame: none where the search found none, two where they contradict each other.

    Attributes:
        works: the nearest size at which the model works, where it is one.
    """

    places: tuple[Place, ...] = ()
    works: int | None = None


def cause_of(
    walker: Walker,
    shapes: Mapping[str, Shape],
    contents: Mapping[str, np.ndarray],
    ranges: Mapping[str, ShapeRange],
) -> Cause:
    """Why ``walker`` complains at ``shapes``.

    One dimension is to blame if the model works with it at another size, which neither makes it equal to another one
    nor is 1 (that broadcasts); the nearest such size is found by bisection. Two contradict each other if the model
    works once they are equal. Dimensions of one symbolic name move together.
    """
    deadline = time.monotonic() + _SECONDS
    groups = _groups(walker, ranges)

    def works(**sizes: int) -> bool:
        return walker.misfit(_with(shapes, groups, sizes), contents) is None

    def size(name: str) -> int:
        place, axis = groups[name][0]
        return shapes[place][axis]

    for name in groups:
        taken = {1, *(size(other) for other in groups)}
        others = _others(ranges, groups[name][0], size(name)) - taken
        for other in sorted(others, key=lambda other: abs(other - size(name))):
            if time.monotonic() > deadline:
                return Cause()
            if works(**{name: other}):
                good, bad = other, size(name)
                while abs(bad - good) > 1:
                    middle = (good + bad) // 2
                    good, bad = (middle, bad) if works(**{name: middle}) else (good, middle)
                return Cause((groups[name][0],), good)
    for first, second in combinations(groups, 2):
        if time.monotonic() > deadline:
            return Cause()
        if size(first) != size(second) and (works(**{first: size(second)}) or works(**{second: size(first)})):
            return Cause((groups[first][0], groups[second][0]))
    return Cause()


def _groups(walker: Walker, ranges: Mapping[str, ShapeRange]) -> dict[str, list[Place]]:
    """The open dimensions, by symbolic name where they have one."""
    found: dict[str, list[Place]] = {}
    for name, given in ranges.items():
        dims = walker.inputs[name].tensor_type.shape.dim if name in walker.inputs else ()
        for axis, dim in enumerate(dims):
            if named_dimension(dim.dim_value) is None and axis < len(given.opt):
                found.setdefault(str(named_dimension(dim.dim_param) or f"{name}.{axis}"), []).append((name, axis))
    return found


def _others(ranges: Mapping[str, ShapeRange], place: Place, size: int) -> set[int]:
    """Other sizes to try: those of the range, and some beyond it."""
    name, axis = place
    bounds = {ranges[name].min[axis], ranges[name].opt[axis], ranges[name].max[axis]}
    return bounds | {max(size // 2, 1), max(size // 4, 1), 2 * size, 4 * size}


def _with(shapes: Mapping[str, Shape], groups: Mapping[str, list[Place]], sizes: Mapping[str, int]) -> dict[str, Shape]:
    found = {name: list(shape) for name, shape in shapes.items()}
    for group, size in sizes.items():
        for name, axis in groups[group]:
            found[name][axis] = size
    return {name: tuple(shape) for name, shape in found.items()}
