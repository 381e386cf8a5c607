"""Import of calibration caches of TensorRT 8 to 10, which TensorRT 11 no longer reads.

The file is text: a header ``TRT-<version>-EntropyCalibration2`` or ``TRT-<version>-MinMaxCalibration``, then one line
per tensor, ``<name>: <scale>``, the scale as the 8 hex digits of a big-endian float32. A tensor's amax is 127 * scale.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.ranges import Ranges, TensorRange
from trtpipe.durable import read_bounded
from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from trtpipe.config.methods import SingleMethod

_HEADER = re.compile(r"TRT-\d+-(\w+)")
_LINE = re.compile(r"(.+): ([0-9a-fA-F]{8})")
_METHODS: dict[str, SingleMethod] = {
    "EntropyCalibration": "entropy",
    "EntropyCalibration2": "entropy",
    "MinMaxCalibration": "max",
}
_REMEDY = "give the file as TensorRT's calibrator wrote it"
_LARGEST = float(np.finfo(np.float32).max)
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class TrtCache:
    """A calibration cache.

    Attributes:
        method: our name of the calibrator's.
        scales: tensor -> scale, above 0, or 0 where TensorRT saw zeros only; in the file's order.
    """

    method: SingleMethod
    scales: dict[str, float]


@dataclass(frozen=True)
class CacheImport:
    """A cache applied to a model.

    Attributes:
        ranges: of the tensors that matched.
        matched: tensors of the model that are in the cache.
        missing: tensors that need a range and are not in the cache: their nodes are kept in float32.
        unused: tensors of the cache that need no range in this model.
    """

    ranges: Ranges
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]


def read_trt_cache(path: Path) -> TrtCache:
    """Read a calibration cache.

    Raises:
        InputError: not such a file; the message names the line.
    """
    header, *lines = _text(path).splitlines() or [""]
    found = _HEADER.fullmatch(header.strip())
    if found is None:
        raise InputError(f"{path}: line 1: not the header of a TensorRT calibration cache", _REMEDY)
    if found[1] not in _METHODS:
        raise InputError(
            f"{path}: line 1: calibrator {found[1]!r} is not supported", f"known are {', '.join(sorted(_METHODS))}"
        )
    scales: dict[str, float] = {}
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        name, scale = _entry(line, f"{path}: line {number}")
        if name in scales:
            raise InputError(f"{path}: line {number}: tensor {name!r} a second time", _REMEDY)
        scales[name] = scale
    return TrtCache(_METHODS[found[1]], scales)


def apply_trt_cache(cache: TrtCache, tensors: Iterable[str]) -> CacheImport:
    """The ranges of those of ``tensors`` that are in the cache.

    Raises:
        InputError: none of them is in the cache.
    """
    wanted = tuple(tensors)
    matched = tuple(name for name in wanted if name in cache.scales)
    if wanted and not matched:
        raise InputError(
            f"none of the model's {len(wanted)} tensors is in the cache, which has {len(cache.scales)}",
            "the names must be those of the ONNX file the cache was made with; calibrate again if they changed",
        )
    return CacheImport(
        ranges=Ranges(method=cache.method, samples=0, tensors={name: _range(cache, name) for name in sorted(matched)}),
        matched=matched,
        missing=tuple(name for name in wanted if name not in cache.scales),
        unused=tuple(name for name in cache.scales if name not in set(wanted)),
    )


def _range(cache: TrtCache, name: str) -> TensorRange:
    amax = float(np.float32(cache.scales[name] * 127))
    note = "from a TensorRT calibration cache" if amax else "always 0"
    return TensorRange(amax=amax, method=cache.method, minimum=-amax, maximum=amax, note=note)


def _text(path: Path) -> str:
    try:
        return read_bounded(path, _MOST_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file, so no calibration cache", _REMEDY) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", "check the path and its permissions") from error


def _entry(line: str, where: str) -> tuple[str, float]:
    found = _LINE.fullmatch(line.rstrip())
    if found is None:
        raise InputError(f"{where}: not '<tensor>: <8 hex digits>'", _REMEDY)
    (scale,) = struct.unpack(">f", bytes.fromhex(found[2]))
    if not isfinite(scale) or scale < 0 or scale * 127 > _LARGEST:
        raise InputError(
            f"{where}: tensor {found[1]!r} has scale {scale}", "calibrate again: this scale cannot be used"
        )
    return found[1], scale
