"""Outputs before they are compared: rows in an order of their own, and positions that do not count.

It is a part of ``finish.py``, too (``trtpipe.delivery.finish``), and so is written for Python 3.8 and numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from typing import TypeAlias

    from trtpipe.artifact import Feed

    Array: TypeAlias = "np.ndarray[Any, Any]"

#: Rows that are matched at most: the memory and the time are of their square.
MOST_ROWS = 4096
#: Rounding of float32 and of sums in another order, relative to a value: never taken for an error.
ROUNDING = 2.0**-22
#: The least value that fills, the factor between it and all others, and that among values that fill.
_LEAST_FILLING, _GAP, _FILLED_ALIKE = 1e4, 1e3, 16.0
#: Sorted values whose noise is so much lower are the same in another order.
_SAME_DB = 40.0


def aligned(found: Feed, wanted: Feed, names: Sequence[str]) -> Feed:
    """``found`` with the rows (axis 1) of the outputs ``names`` in the order of ``wanted``.

    Outputs with as many rows are one set: boxes, their scores and their classes move together. Rows are matched with
    the nearest of the reference's, those that are nearest to each other first; every value counts in units of its
    output's standard deviation.

    Raises:
        InputError: an output has no axis 1, or too many rows.
    """
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        if name not in wanted:
            continue
        if wanted[name].ndim < 2 or wanted[name].shape[1] > MOST_ROWS:
            raise InputError(
                f"unordered: output {name!r} has shape {list(wanted[name].shape)}",
                f"name outputs of shape [batch, rows, ...] with at most {MOST_ROWS} rows",
            )
        groups.setdefault(wanted[name].shape[:2], []).append(name)
    result = dict(found)
    for (samples, _), group in groups.items():
        moved = {name: found[name].copy() for name in group if found[name].shape == wanted[name].shape}
        for sample in range(samples if moved else 0):
            order = _order(*(_features(arrays, wanted, list(moved), sample) for arrays in (found, wanted)))
            for name, value in moved.items():
                value[sample] = found[name][sample][order]
        result.update(moved)
    return result


def counted(
    found: Feed, wanted: Feed, ignore: Mapping[str, float | str], feed: Feed
) -> tuple[Feed, Feed, dict[str, Array]]:
    """Both with 0 where positions do not count; and output -> booleans, where they do.

    Besides what is declared, infinities and fillings that are equal in both do not count: beside -1e9 in masked
    logits, all else would be rounding.

    Args:
        ignore: output -> the value that the reference has where it does not count, or the input (or other output) that
            is 0 there, whose axes are the first ones of the output.

    Raises:
        InputError: there is no such mask, or its axes do not fit.
    """
    mine, theirs, counts = dict(found), dict(wanted), {}
    for name, value in wanted.items():
        counts[name] = np.ones(value.shape, bool)
        if found[name].shape != value.shape:
            continue
        if name in ignore:
            counts[name] = _counts(name, ignore[name], wanted, feed)
        counts[name] = counts[name] & ~_equal_fillings(found[name], value)
        if not counts[name].all():
            mine[name], theirs[name] = (
                np.where(counts[name], side[name], side[name].dtype.type(0)) for side in (found, wanted)
            )
    return mine, theirs, counts


def fillings(values: Array) -> Array:
    """Where an output of floats is infinite or filled: -1e9 in masked logits, -65504 in float16.

    Such values are of 1e4 or more, and a gap of three orders of magnitude separates them from all others.
    """
    size = np.abs(values.astype(np.float64))
    finite = size[np.isfinite(size)]
    top = float(finite.max(initial=0.0))
    rest = float(finite[finite < top / _FILLED_ALIKE].max(initial=0.0))
    least = top / _FILLED_ALIKE if top >= _LEAST_FILLING and 0 < rest < top / _GAP else np.inf
    return np.asarray(size >= least)


def largest_plain(values: Array) -> float:
    """The largest magnitude in an output, without infinities, NaN and what fills it; 0 if there is none."""
    plain = np.abs(values.astype(np.float64))[~fillings(values)]
    return float(np.nan_to_num(plain, nan=0.0).max(initial=0.0))


def _equal_fillings(found: Array, wanted: Array) -> Array:
    if wanted.dtype.kind in "biu":
        return np.zeros(wanted.shape, bool)
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(found.astype(np.float64) - wanted)
        same = (found == wanted) | (np.isfinite(gap) & (gap <= ROUNDING * np.abs(wanted.astype(np.float64))))
    return np.asarray(same & fillings(wanted))


def may_be_masks(feed: Feed, outputs: Feed) -> Feed:
    """The inputs that ``ignore`` can name: over the first axes of an output; floats only if they have fewer axes."""

    def fits(mask: Array, value: Array) -> bool:
        fewer = 1 <= mask.ndim < value.ndim or (mask.ndim == value.ndim and mask.dtype.kind in "biu")
        return fewer and mask.shape == value.shape[: mask.ndim]

    return {name: mask for name, mask in feed.items() if any(fits(mask, value) for value in outputs.values())}


def reordered(found: Array, wanted: Array) -> bool:
    """Whether the rows (axis 1) of an output hold the same values in another order, column by column."""
    if wanted.ndim not in (2, 3) or wanted.shape[1] < 2 or not wanted.size or wanted.dtype.kind != "f":
        return False
    with np.errstate(all="ignore"):
        apart = [np.sort(side.astype(np.float64), axis=1) for side in (found, wanted)]
        noise, plain = np.square(apart[0] - apart[1]).sum(), np.square(found.astype(np.float64) - wanted).sum()
        power = np.square(apart[1] - apart[1].mean()).sum()
    return bool(plain > 0.01 * power and noise <= 10 ** (-_SAME_DB / 10) * power)


def noise_by_mask(found: Array, wanted: Array, feed: Feed) -> dict[str, float]:
    """Input -> the noise power of an output where it is not 0, for every input that may be its mask: integers or
    booleans over the output's first axes, at least two of them.
    """
    result = {}
    for name, mask in feed.items():
        fits = 2 <= mask.ndim <= wanted.ndim and mask.shape == wanted.shape[: mask.ndim]
        if fits and mask.dtype.kind in "biu" and wanted.dtype.kind == "f":
            counts = (mask != 0).reshape(mask.shape + (1,) * (wanted.ndim - mask.ndim))
            with np.errstate(all="ignore"):
                result[name] = float(np.where(counts, np.square(found.astype(np.float64) - wanted), 0.0).sum())
    return result


@dataclass
class Unfilled:
    """An output of floats without what fills it, or is NaN, in the reference.

    Attributes:
        values: those that fill; of more than one, two.
        signal, noise: powers of all others, and of their differences.
    """

    values: set[str] = field(default_factory=set)
    signal: float = 0.0
    noise: float = 0.0

    def add(self, found: Array, wanted: Array) -> None:
        """Add one feed."""
        if wanted.dtype.kind != "f":
            return
        filled = fillings(wanted) | np.isnan(wanted)
        if filled.any() and len(self.values) < 2:
            self.values.update(repr(float(value)) for value in np.unique(wanted[filled])[:2])
        with np.errstate(all="ignore"):
            apart = np.square(found.astype(np.float64) - wanted)
            self.noise += float(np.where(filled, 0.0, apart).sum())
            self.signal += float(np.where(filled, 0.0, np.square(wanted.astype(np.float64))).sum())


def _counts(name: str, rule: float | str, wanted: Feed, feed: Feed) -> Array:
    """Where an output counts: booleans that fit its shape."""
    value = wanted[name]
    if not isinstance(rule, str):
        return ~np.isnan(value) if math.isnan(rule) else np.asarray(value != rule)
    mask = feed.get(rule, wanted.get(rule))
    if mask is None:
        raise InputError(
            f"ignore: {name}: there is no input or output {rule!r}",
            f"name one of {', '.join([*feed, *wanted])}",
        )
    if mask.shape != value.shape[: mask.ndim]:
        raise InputError(
            f"ignore: {name}: {rule!r} has shape {list(mask.shape)}, the output {list(value.shape)}",
            "name a mask whose axes are the first ones of the output",
        )
    return np.asarray((mask != 0).reshape(mask.shape + (1,) * (value.ndim - mask.ndim)))


def _features(arrays: Feed, wanted: Feed, names: Sequence[str], sample: int) -> Array:
    """float64[rows, values]: what a row is told by."""
    columns = []
    for name in names:
        scale = float(wanted[name][sample].astype(np.float64).std()) or 1.0
        columns.append(arrays[name][sample].astype(np.float64).reshape(len(arrays[name][sample]), -1) / scale)
    features: Array = np.nan_to_num(np.concatenate(columns, axis=1))
    return features


def _order(found: Array, wanted: Array) -> Array:
    """For every row of ``wanted`` the row of ``found`` that stands for it; each is used once."""
    order = np.empty(len(wanted), np.int64)
    here, there = np.arange(len(found)), np.arange(len(wanted))
    while len(there):
        a, b = found[here], wanted[there]
        distances = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None] - 2 * a @ b.T
        nearest = distances.argmin(axis=0)
        mutual = distances.argmin(axis=1)[nearest] == np.arange(len(there))
        if not mutual.any():  # ties that rounding broke differently
            mutual[0] = True
        order[there[mutual]] = here[nearest[mutual]]
        here, there = np.delete(here, nearest[mutual]), there[~mutual]
    return order
