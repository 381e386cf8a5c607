"""Optimization profiles from data: the shapes that samples really have.

Per dynamic dimension: the smallest and the largest size seen, and between them the median (the smallest size that at
least half of the feeds do not exceed, those apart where it is 0), for which the engine is tuned. Dimensions of one
symbolic name have one range. Where one is the sum of two others in every feed, as the length of a mask is that of the
past and of what is new, so is each bound of its range: else the extremes would contradict each other.
The batch is how the data was cut, not what the model will meet: it reaches from 1 to the largest one fed, tuned for the
most frequent.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, TypeAlias

from trtpipe.config.profile import ShapeRange
from trtpipe.config.shapes import gives_values, is_dynamic
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.artifact import IOContract, TensorSpec
    from trtpipe.data.sample import Dataset, Sample

#: A dimension's smallest, typical and largest size.
_Span: TypeAlias = "tuple[int, int, int]"

#: Inputs of more elements are not looked at for values.
_FEW = 8
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
        InputError: no input is dynamic, the rank of one is unknown, or the data does not tell: there is none, or
            dimensions of one name differ in a sample.
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
    seen: list[dict[str, int]] = []
    same = _SameValues(contract, given)
    for sample in dataset:
        seen.append(_sizes(dynamic, sample, len(seen) + 1))
        same.look_at(sample)
    if not seen:
        raise InputError(f"{dataset.name}: no samples to infer shapes from", f"give samples, or {_BY_HAND}")
    batch = _batch(dynamic)
    spans = {symbol: _span([sizes[symbol] for sizes in seen], batch=symbol == batch) for symbol in seen[0]} | known
    spans |= {symbol: span for symbol, span in _sums(seen, spans, batch).items() if symbol not in known}
    profile = dict(given) | {spec.name: _range(spec, spans) for spec in dynamic if spec.name not in given}
    words = ", ".join(_words(name, shape) for name, shape in profile.items() if name not in given)
    return Inferred(profile, f"shapes from {dataset.name}, {len(seen)} feeds: {words}{same.offer()}")


class _SameValues:
    """Looks for integer inputs of fixed shape with the same values in every feed: one may choose a branch."""

    def __init__(self, contract: IOContract, given: Mapping[str, ShapeRange]) -> None:
        self._specs = {spec.name: spec for spec in contract.inputs if not is_dynamic(spec) and spec.name not in given}
        self._values: dict[str, tuple[int, ...]] = {}

    def look_at(self, sample: Sample) -> None:
        """Drop the inputs whose values differ from those before."""
        for name, spec in list(self._specs.items()):
            value, fixed = sample.feed[name], spec.shape or ()
            values = tuple(int(number) for number in value.reshape(-1)) if value.size <= _FEW and len(fixed) < 2 else ()
            usable = bool(values) and min(values) >= 0 and gives_values(spec.dtype, fixed, values)
            if not usable or self._values.setdefault(name, values) != values:
                del self._specs[name]

    def offer(self) -> str:
        """What may be given for them; empty for none."""
        options = [f"{name}:{'x'.join(map(str, self._values[name]))}" for name in self._specs if name in self._values]
        return f"; the same in all feeds, to build for: --shapes {','.join(options)}" if options else ""


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


def _span(sizes: Sequence[int], *, batch: bool) -> _Span:
    if batch:
        count = Counter(sizes)
        return 1, max(count, key=lambda size: (count[size], size)), max(count)
    some = sorted(size for size in sizes if size > 0) or [0]  # the kernels of an empty tensor need no tuning
    return min(sizes), some[(len(some) - 1) // 2], some[-1]


def _sums(seen: Sequence[Mapping[str, int]], spans: Mapping[str, _Span], batch: str | None) -> dict[str, _Span]:
    """The dimensions that are the sum of two others in every feed, both of which vary -> the sums of their ranges."""
    varying = [symbol for symbol in seen[0] if symbol != batch and len({sizes[symbol] for sizes in seen}) > 1]
    found: dict[str, _Span] = {}
    for whole, *parts in permutations(varying, 3):
        first, second = parts
        if all(sizes[whole] == sizes[first] + sizes[second] for sizes in seen):
            a, b = spans[first], spans[second]
            found[whole] = (a[0] + b[0], a[1] + b[1], a[2] + b[2])
    return found


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
