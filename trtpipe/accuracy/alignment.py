"""Outputs before they are compared: rows in an order of their own, and positions that do not count.

It is a part of ``finish.py``, too (``trtpipe.delivery.finish``), and so is written for Python 3.8 and numpy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from typing import TypeAlias

    from trtpipe.artifact import Feed

    Array: TypeAlias = "np.ndarray[Any, Any]"

#: Rows that are matched at most: the memory and the time are of their square.
MOST_ROWS = 4096
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


def without_ignored(found: Feed, wanted: Feed, ignore: Mapping[str, float | str], feed: Feed) -> tuple[Feed, Feed]:
    """Both with 0 where positions do not count.

    Args:
        ignore: output -> the value that the reference has there, or the input (or other output) that is 0 there, whose
            axes are the first ones of the output.

    Raises:
        InputError: there is no such mask, or its axes do not fit.
    """
    mine, theirs = dict(found), dict(wanted)
    for name, rule in ignore.items():
        if name in wanted and found[name].shape == wanted[name].shape:
            counts = _counts(name, rule, wanted, feed)
            mine[name], theirs[name] = (
                np.where(counts, side[name], side[name].dtype.type(0)) for side in (found, wanted)
            )
    return mine, theirs


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
    booleans over the output's first axes, at least two of them, some of them 0.
    """
    result = {}
    for name, mask in feed.items():
        fits = 2 <= mask.ndim <= wanted.ndim and mask.shape == wanted.shape[: mask.ndim]
        if fits and mask.dtype.kind in "biu" and wanted.dtype.kind == "f" and not mask.all():
            counts = (mask != 0).reshape(mask.shape + (1,) * (wanted.ndim - mask.ndim))
            with np.errstate(all="ignore"):
                result[name] = float(np.where(counts, np.square(found.astype(np.float64) - wanted), 0.0).sum())
    return result


def _counts(name: str, rule: float | str, wanted: Feed, feed: Feed) -> Array:
    """Where an output counts: booleans that fit its shape."""
    value = wanted[name]
    if not isinstance(rule, str):
        return np.asarray(value != rule)
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
