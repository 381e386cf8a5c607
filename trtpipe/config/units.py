"""Quantities people write with a unit: bytes (``4G``), durations (``200ms``), shares (``1%``); words for messages."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


_NUMBER = r"\s*(\d{1,18}(?:\.\d{1,24})?)\s*"


def parse_bytes(text: str) -> int:
    """Bytes from ``4G``, ``512M``, ``4GiB`` or ``4096B``; units are powers of 1024, and one is required.

    Raises:
        ValueError: not a positive quantity of bytes with a unit.
    """
    match = re.fullmatch(_NUMBER + r"(?:([KMGT])(?:i?B)?|B)", text.rstrip(), re.IGNORECASE)
    if not match and (bare := re.fullmatch(_NUMBER, text)) and float(bare[1]) > 0:
        raise ValueError(f"{text!r} has no unit: write {bare[1]}M or {bare[1]}G, or {bare[1]}B for bytes")
    count = int(Decimal(match[1]) * _BYTES[(match[2] or "").upper()]) if match else 0
    if count < 1:
        raise ValueError(f"{text!r} is not a size such as 512M or 4G")
    return count


def parse_seconds(text: str) -> float:
    """Seconds from ``200ms``, ``3s``, ``1.5min``; the unit is required.

    Raises:
        ValueError: not a duration with a unit.
    """
    match = re.fullmatch(_NUMBER + r"(us|ms|s|min|h|d)\s*", text)
    if not match and (bare := re.fullmatch(_NUMBER, text)):
        raise ValueError(f"{text!r} has no unit: write {bare[1]}ms or {bare[1]}s")
    if not match:
        raise ValueError(f"{text!r} is not a duration such as 200ms or 3s")
    return float(match[1]) * _SECONDS[match[2]]


def parse_amount(given: str | float) -> float | str:
    """An amount of a metric: ``1%``, ``1pt`` (a percentage point) and ``0.01`` are one and the same, and absolute.

    What is 1 and more reads differently with a unit and without (``5`` may be 5 % or, of a perplexity, 5): with a unit
    it stays a text, ``"100%"``, and ``amount`` says what it is of a given metric.

    Raises:
        ValueError: not a finite number, with or without a unit.
    """
    match = re.fullmatch(r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(%|pt)?\s*", given) if isinstance(given, str) else None
    try:
        value = float(match[1] if match else given)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{given!r} is not an amount such as 0.5% (as 0.5pt and 0.005)")
    if match is None or match[2] is None:
        return value
    return value / 100 if abs(value) < 100 else f"{value:g}%"


def amount(given: float | str, *, bounded: bool, most: float = math.inf) -> float:
    """What ``parse_amount`` gave, of a metric.

    Args:
        bounded: whether the metric is a share.
        most: the largest amount that it can have.

    Raises:
        ValueError: 1 or more without a unit, of a share.
    """
    if isinstance(given, str):
        return float(given.removesuffix("%")) / 100
    if bounded and abs(given) >= 1:
        readings = [f"{percent:g}%" for percent in (given, 100 * given) if abs(percent) <= 100 * most]
        if not readings:
            raise ValueError(f"{given:g} is more than {most:g} ({100 * most:g}%), with or without a unit")
        raise ValueError(f"{given:g} has no unit: write {' or '.join(readings)}")
    return given


def exact_bytes(count: int) -> str:
    """``parse_bytes`` backwards."""
    return f"{count}B"


def exact_seconds(seconds: float) -> str:
    """``parse_seconds`` backwards."""
    return f"{Decimal(repr(seconds)):f}s"


def format_bytes(count: int) -> str:
    """A size for people: ``1.2 MB`` (powers of 1000, as file managers show it)."""
    size, unit = _scaled(count, ("B", "kB", "MB", "GB"))
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"


def format_seconds(seconds: float) -> str:
    """A duration for people: ``820 us``, ``12.3 ms``, ``4.5 s``, ``2 min 05 s``."""
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def format_count(count: int) -> str:
    """A number for people: ``950``, ``1.2 k``, ``41.3 M``, ``4.1 G`` (powers of 1000)."""
    size, unit = _scaled(count, ("", "k", "M", "G", "T"))
    return f"{size:.3g} {unit}" if unit else f"{size:.0f}"


def _scaled(count: int, units: tuple[str, ...]) -> tuple[float, str]:
    size, power = float(count), 0
    while size >= 999.5 and power < len(units) - 1:
        size, power = size / 1000, power + 1
    return size, units[power]


def suggestion(name: str, known: Iterable[str], kind: str) -> str:
    """A remedy for a mistyped name: the nearest known one, and all there are."""
    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}{kind}: {', '.join(names) or 'none'}"


def check_names(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """What Python does about arguments that a function lacks, with the nearest that it has, as Python 3.13 does.

    Raises:
        TypeError: a name is not known.
    """
    names = list(known)
    if unknown := sorted(set(given) - set(names)):
        near = get_close_matches(unknown[0], names, n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise TypeError(f"{function}() got an unexpected keyword argument {unknown[0]!r}{hint}")


def printable(text: str) -> str:
    """``text`` on one line, with everything a terminal might obey (or cannot show) written as an escape.

    Names inside models and paths are anybody's, so no message is printed without this.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
