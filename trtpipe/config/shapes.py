"""Shapes as people write them; and do the profile's shapes and tolerances fit the model?

That is asked before anything slow or native sees them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trtpipe.config.units import suggestion
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trtpipe.artifact import IOContract, TensorSpec
    from trtpipe.config.profile import ShapeRange, Tolerance


_NUMBER = r"\d{1,18}"
_SHAPE = re.compile(
    rf"(?P<name>[^\s,\[\]]+):(?P<dims>\[\s*(?:{_NUMBER}(?:\s*,\s*{_NUMBER})*)?\s*\]|{_NUMBER}(?:x{_NUMBER})*|)(?:[\s,]+|$)"
)


def parse_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """Shapes as people write them: ``x:1x3x224x224,y:1x128`` (trtexec) or ``x:[1,3,224,224] y:[1,128]`` (Polygraphy).

    Raises:
        InputError: the text is neither.
    """
    found: dict[str, tuple[int, ...]] = {}
    rest = text.strip()
    while rest:
        match = _SHAPE.match(rest)
        if not match:
            raise InputError(f"cannot read shapes {text!r}", "write them as x:1x3x224x224 or x:[1,3,224,224]")
        if match["name"] in found:
            raise InputError(f"input {match['name']!r} has two shapes in {text!r}", "give one shape an input")
        found[match["name"]] = tuple(int(number) for number in re.findall(r"\d+", match["dims"]))
        rest = rest[match.end() :]
    if not found:
        raise InputError("no shapes given", "write them as x:1x3x224x224 or x:[1,3,224,224]")
    return found


def check_shapes(contract: IOContract, profiles: Sequence[Mapping[str, ShapeRange]], *, complete: bool = True) -> None:
    """Raise InputError unless every optimization profile fits ``contract``.

    TensorRT ignores unknown names and accepts some contradictions that fail only at run time, so this asks first:
    unknown input, wrong rank, a static dimension given another size, a dynamic input without a range, one symbolic
    dimension with different ranges on two inputs. For an input whose values decide shapes, the range is one of values.

    Args:
        complete: whether every dynamic input must have a range.
    """
    inputs = {spec.name: spec for spec in contract.inputs}
    for profile in profiles:
        for name, shape in profile.items():
            if name not in inputs:
                raise InputError(f"shapes for {name!r}: no such input", suggestion(name, inputs, "inputs"))
            _check_range(inputs[name], shape)
        _check_symbols(inputs, profile)
    if complete:
        _check_complete(contract, profiles)


def check_outputs(outputs: Iterable[str], tolerance: Tolerance) -> None:
    """Raise InputError for a tolerance of an output the model does not have: it would judge nothing."""
    known = list(outputs)
    for name in (*tolerance.outputs, *tolerance.unordered, *tolerance.ignore):
        if name not in known:
            raise InputError(f"tolerance for {name!r}: no such output", suggestion(name, known, "outputs"))


def is_dynamic(spec: TensorSpec) -> bool:
    """Whether any dimension is open."""
    return spec.shape is None or any(not isinstance(dim, int) for dim in spec.shape)


def gives_values(dtype: str, dims: Sequence[int | str | None], numbers: Sequence[int]) -> bool:
    """Whether the numbers given for an input are values, because its content decides shapes: an integer scalar or
    vector of fixed length has as many elements as there are numbers, and these are not its length.
    """
    if not dtype.startswith(("int", "uint")) or len(dims) > 1:
        return False
    count = dims[0] if dims else 1
    return len(numbers) == count and tuple(numbers) != tuple(dims)


def _check_range(spec: TensorSpec, shape: ShapeRange) -> None:
    if spec.shape is None or gives_values(spec.dtype, spec.shape, shape.max):
        return
    if len(shape.min) != len(spec.shape):
        raise InputError(
            f"shapes for {spec.name!r} have rank {len(shape.min)}, the model's input is {spec}",
            f"give {len(spec.shape)} dimensions",
        )
    for axis, dim in enumerate(spec.shape):
        if isinstance(dim, int) and not shape.min[axis] == shape.max[axis] == dim:
            raise InputError(
                f"shapes for {spec.name!r}: dimension {axis} is fixed to {dim} in the model, "
                f"the profile says {shape.min[axis]}..{shape.max[axis]}",
                f"use {dim} there, or export the model with that dimension dynamic",
            )


def _check_symbols(inputs: Mapping[str, TensorSpec], profile: Mapping[str, ShapeRange]) -> None:
    seen: dict[str, tuple[str, tuple[int, int, int]]] = {}
    for name, shape in profile.items():
        for axis, dim in enumerate(inputs[name].shape or ()):
            if not isinstance(dim, str):
                continue
            sizes = (shape.min[axis], shape.opt[axis], shape.max[axis])
            first = seen.setdefault(dim, (name, sizes))
            if first[1] != sizes:
                raise InputError(
                    f"dimension {dim!r} is {'..'.join(map(str, first[1]))} for input {first[0]!r} "
                    f"but {'..'.join(map(str, sizes))} for {name!r}",
                    "give both inputs the same range: the model ties them together",
                )


def _check_complete(contract: IOContract, profiles: Sequence[Mapping[str, ShapeRange]]) -> None:
    for spec in contract.inputs:
        if is_dynamic(spec) and not (profiles and all(spec.name in profile for profile in profiles)):
            dims = "x".join(str(dim) if isinstance(dim, int) else "1" for dim in spec.shape or (None,))
            without = next((number for number, profile in enumerate(profiles) if spec.name not in profile), 0)
            if any(spec.name in profile for profile in profiles):
                raise InputError(
                    f"input {spec} is dynamic, and optimization profile {without + 1} has no shapes for it",
                    f"add {spec.name}:{dims} there; a shape option that names an input again begins the next profile",
                )
            raise InputError(
                f"input {spec} is dynamic, and no shapes were given for it",
                f"add --min-shapes, --opt-shapes, --max-shapes {spec.name}:{dims}, or set [shapes] in a profile",
            )
