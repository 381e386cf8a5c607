"""Task metrics that trtpipe computes itself, and what limits on a metric may be."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING

from trtpipe.config.units import amount, parse_amount
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Metric -> its least and largest value. A word error rate counts insertions, so nothing bounds it above.
METRICS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"top1": (0.0, 1.0), "top5": (0.0, 1.0), "cosine": (-1.0, 1.0), "map": (0.0, 1.0), "wer": (0.0, math.inf)}
)


def limit_of_value(name: str, given: float | str, metric: str) -> float:
    """A least value of a metric (of an error, a largest), in the metric's own unit.

    Args:
        name: what gives the limit, for messages.
        metric: one of ``METRICS``; any other is the user's, in any unit.

    Raises:
        InputError: no amount, one that can be read in two ways, or no value that the metric can have: such a limit
            always holds or never does.
    """
    low, high = METRICS.get(metric, (-math.inf, math.inf))
    value = _in_its_unit(name, given, metric, high)
    if not low <= value <= high:
        bounds = f"{low:g} and more" if high == math.inf else f"{low:g} to {high:g} ({100 * low:g}% to {100 * high:g}%)"
        raise InputError(f"{name}: {given} is no value of {metric}, which is {bounds}", "give a value that it can have")
    return value


def limit_of_drop(name: str, given: float | str, metric: str) -> float:
    """By how much a metric may be worse, in its own unit.

    Raises:
        InputError: as for ``limit_of_value``; of a metric within bounds, more than lies between them.
    """
    low, high = METRICS.get(metric, (-math.inf, math.inf))
    value = _in_its_unit(name, given, metric, high - low)
    if value > high - low:
        raise InputError(
            f"{name}: {given} is more than {metric} can differ by, which is {low:g} to {high:g}",
            f"{100 * (high - low):g}% admits every drop",
        )
    return value


def _in_its_unit(name: str, given: float | str, metric: str, most: float) -> float:
    try:
        return amount(parse_amount(given), bounded=metric in METRICS, most=most)
    except ValueError as error:
        raise InputError(f"{name}: {error}", "give the amount with its unit, such as 0.5%") from error
