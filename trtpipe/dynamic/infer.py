"""Optimization profiles from data: the shapes that samples really have.

Per dynamic dimension: the smallest and the largest size seen, and between them the median (the smallest size that at
least half of the feeds do not exceed), for which the engine is tuned. Dimensions of one symbolic name have one range.
The batch is how the data was cut, not what the model will meet: it reaches from 1 to the largest one fed, tuned for the
most frequent.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.config.profile import ShapeRange
from trtpipe.config.shapes import is_dynamic
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.artifact import IOContract, TensorSpec
    from trtpipe.data.sample import Dataset, Sample

#: A dimension's smallest, typical and largest size.
_Span: TypeAlias = "tuple[int, int, int]"

_BY_HAND = "give --min-shapes, --opt-shapes and --max-shapes"


@dataclass(frozen=True)
class Inferred:
    """One optimization profile, and how it came about, in words."""

    profile: dict[str, ShapeRange]
    note: str


def infer_shapes(contract: IOContract, dataset: Dataset, given: Mapping[str, ShapeRange]) -> Inferred:
    """The profile of a model's dynamic inputs; one pass over the data.

    Args:
        given: ranges that are known already; they stay as they are.

    Raises:
        InputError: no input is dynamic, the rank of one is unknown, or the data does not tell: there is none, a
            dimension is 0, or dimensions of one name differ in a sample.
    """
    dynamic = [spec for spec in contract.inputs if is_dynamic(spec)]
    if not dynamic:
        raise InputError(
            "shapes cannot be inferred: the model has no dynamic inputs",
            "leave --shapes auto out; for a PyTorch factory, whose dynamic dimensions are those of the ranges: "
            f"{_BY_HAND}",
        )
    for spec in dynamic:
        if spec.shape is None:
            raise InputError(f"shapes of input {spec.name!r} cannot be inferred: its rank is unknown", _BY_HAND)
    known = _known(dynamic, given)
    seen: dict[str, Counter[int]] = {}
    feeds = 0
    for sample in dataset:
        feeds += 1
        for symbol, size in _sizes(dynamic, sample, feeds).items():
            seen.setdefault(symbol, Counter())[size] += 1
    if not feeds:
        raise InputError(f"{dataset.name}: no samples to infer shapes from", f"give samples, or {_BY_HAND}")
    batch = _batch(dynamic)
    spans = {symbol: _span(sizes, batch=symbol == batch) for symbol, sizes in seen.items()} | known
    profile = {spec.name: given.get(spec.name) or _range(spec, spans) for spec in dynamic}
    words = ", ".join(_words(name, shape) for name, shape in profile.items() if name not in given)
    return Inferred(profile, f"shapes from {dataset.name}, {feeds} feeds: {words}")


def _symbol(spec: TensorSpec, axis: int) -> str | None:
    """What a dimension goes by; ``None`` if it is fixed."""
    dim = (spec.shape or ())[axis]
    return None if isinstance(dim, int) else dim or f"{spec.name}.{axis}"


def _known(dynamic: Sequence[TensorSpec], given: Mapping[str, ShapeRange]) -> dict[str, _Span]:
    found = {}
    for spec in dynamic:
        if spec.name in given:
            bounds = zip(given[spec.name].min, given[spec.name].opt, given[spec.name].max, strict=True)
            for axis, span in enumerate(bounds):
                if axis < len(spec.shape or ()) and (symbol := _symbol(spec, axis)):
                    found[symbol] = span
    return found


def _sizes(dynamic: Sequence[TensorSpec], sample: Sample, number: int) -> dict[str, int]:
    """Dimension -> its size in one sample."""
    found: dict[str, tuple[int, str]] = {}
    for spec in dynamic:
        for axis, size in enumerate(sample.feed[spec.name].shape):
            symbol = _symbol(spec, axis)
            if symbol is None:
                continue
            if size == 0:
                raise InputError(
                    f"shapes cannot be inferred: dimension {axis} of input {spec.name!r} is 0 in feed {number}",
                    f"leave such samples out, or {_BY_HAND}",
                )
            first, where = found.setdefault(symbol, (size, spec.name))
            if first != size:
                raise InputError(
                    f"shapes cannot be inferred: dimension {symbol!r} is {first} in {where!r} and {size} in "
                    f"{spec.name!r} in feed {number}",
                    "correct the data: the model ties these dimensions together",
                )
    return {symbol: size for symbol, (size, _) in found.items()}


def _batch(dynamic: Sequence[TensorSpec]) -> str | None:
    """The dimension that all dynamic inputs begin with, which is how the data was cut into feeds."""
    first = {_symbol(spec, 0) if spec.shape else None for spec in dynamic}
    return first.pop() if len(first) == 1 else None


def _span(sizes: Counter[int], *, batch: bool) -> _Span:
    if batch:
        return 1, max(sizes, key=lambda size: (sizes[size], size)), max(sizes)
    ordered = sorted(sizes.elements())
    return ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1]


def _range(spec: TensorSpec, spans: Mapping[str, _Span]) -> ShapeRange:
    dims = [
        (dim, dim, dim) if isinstance(dim, int) else spans[str(_symbol(spec, axis))]
        for axis, dim in enumerate(spec.shape or ())
    ]
    low, typical, high = zip(*dims, strict=True)
    return ShapeRange(min=low, opt=typical, max=high)


def _words(name: str, shape: ShapeRange) -> str:
    low, typical, high = ("x".join(map(str, dims)) for dims in (shape.min, shape.opt, shape.max))
    return f"{name} {low} to {high}, opt {typical}"
