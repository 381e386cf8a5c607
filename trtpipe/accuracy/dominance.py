"""Few samples that hold nearly all of what changes in an output: beside them the noise of all others is not seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trtpipe.accuracy.output_metrics import decibel

#: The share of the variation that few samples have to hold, and the share of the samples that are few.
_NEARLY_ALL, _FEW = 0.9, 1 / 8
#: Of fewer samples one may well hold most.
_LEAST_SAMPLES = 8


@dataclass
class Dominance:
    """Power and noise of every sample of one output.

    Samples are along axis 0. Variation is about one mean of all elements, so that only sums are kept: means of single
    elements that differ add to the variation of all samples alike, and can only hide that one stands out.

    Attributes:
        sums: of the values that count in each sample: float64[count, sum, sum of squares, sum of squared differences].
    """

    sums: list[np.ndarray[Any, Any]] = field(default_factory=list)

    def add(self, found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], counts: np.ndarray[Any, Any]) -> None:
        """Add one feed: outputs of one shape [samples, ...], and which values count."""
        if not wanted.size or wanted.dtype.kind != "f":
            return
        rows = (len(wanted) if wanted.ndim else 1, -1)
        with np.errstate(invalid="ignore", over="ignore"):
            values = np.where(counts, wanted, 0).astype(np.float64).reshape(rows)
            gaps = np.where(counts & (found != wanted), found.astype(np.float64) - wanted, 0.0).reshape(rows)
            parts = counts.reshape(rows).sum(1), values.sum(1), np.square(values).sum(1), np.square(gaps).sum(1)
        self.sums.append(np.stack(parts, axis=1).astype(np.float64))

    def words(self, name: str, least: float | None) -> Iterator[str]:
        """What the samples that stand out hide, where the noise of all others is beyond the limit.

        Args:
            name: of the output.
            least: the SNR in dB that is asked for.
        """
        sums = np.concatenate(self.sums) if self.sums else np.empty((0, 4))
        sums = sums[sums[:, 0] > 0]
        if least is None or len(sums) < _LEAST_SAMPLES or not np.isfinite(sums).all():
            return
        power = _power(sums)
        order = np.argsort(power)[::-1]
        held = np.cumsum(power[order]) / power.sum() if power.sum() else np.zeros(len(sums))
        few = int((held < _NEARLY_ALL).sum()) + 1
        if few > len(sums) * _FEW:
            return
        rest = sums[order[few:]]
        decibels = decibel(float(_power(rest).sum()), float(rest[:, 3].sum()))
        if decibels < least:
            largest = ", ".join(str(number) for number in sorted(order[:few].tolist()))
            yield (
                f"{few} of {len(sums)} samples (from 0 on: {largest}) make up {held[few - 1]:.0%} of the variation of "
                f"output {name!r}, and the SNR is theirs: of all others it is {decibels:.1f} dB, below {least:g}; if "
                "the others count as much, see what is special in these, or judge by a metric"
            )


def _power(sums: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Of each sample, about the mean of all elements."""
    count, total, squares = sums[:, 0], sums[:, 1], sums[:, 2]
    mean = total.sum() / count.sum()
    power: np.ndarray[Any, Any] = np.maximum(squares - 2 * mean * total + count * mean**2, 0.0)
    return power
