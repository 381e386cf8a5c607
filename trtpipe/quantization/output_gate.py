"""The accuracy gate of verification, asked before there is anything to verify: are outputs within tolerance?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.accuracy.comparison import OutputComparison
from trtpipe.config.profile import OutputTolerance
from trtpipe.quantization.output_noise import in_decibels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from trtpipe.accuracy.reports import OutputParity
    from trtpipe.artifact import Feed
    from trtpipe.config.formats import Precision
    from trtpipe.config.profile import Tolerance
    from trtpipe.quantization.output_noise import OutputNoise

#: Share of the tolerance, in noise amplitude, that calibration samples may use: 2 dB are left to other samples, and to
#: rounding to 16 bits.
MARGIN = 0.8
#: dB: noise over signal that a part of an output may have: 0.4 % of its variance. Boxes vary by tens of pixels, and a
#: tenth of that, 1 %, is a whole pixel: the YOLOX-like detector of docs/lowering.md loses 1.7 points of mAP in FP8.
PART = -24.0


class OutputGate:
    """Holds graphs against the float32 graph's outputs as verification does, with a margin.

    Args:
        tolerance: the profile's; ``precision`` fills its gaps.
        expected: of every feed, the float32 graph's outputs.
        names: the model's outputs among them.
    """

    def __init__(
        self, tolerance: Tolerance, precision: Precision, expected: Sequence[Feed], names: Sequence[str]
    ) -> None:
        first = expected[0] if expected else {}
        self._precision = precision
        self._expected = [{name: found[name] for name in names if name in found} for found in expected]
        strict = {
            name: _strict(tolerance.for_output(name, precision))
            for name in names
            if name in first and first[name].dtype.kind not in "biu"
        }
        self._tolerance = tolerance.model_copy(update={"outputs": {**tolerance.outputs, **strict}})

    def begin(self) -> GateTrial:
        """Judge one graph."""
        return GateTrial(OutputComparison(self._tolerance, self._precision), self._expected)


@dataclass(frozen=True, eq=False)
class Reference:
    """What the outputs of quantized graphs are held against, on some feeds.

    Attributes:
        noise: measures it in logits, and in parts of outputs.
        joined: whether an output joins parts. Each of them then has to be as good as ``PART`` says: the largest, boxes
            in pixels, would hide all errors of the others, such as scores.
    """

    noise: OutputNoise
    gate: OutputGate
    joined: bool

    def begin(self) -> Evaluation:
        """Evaluate one graph."""
        return Evaluation(self)

    def evaluate(self, results: Iterable[Feed]) -> tuple[np.ndarray, float]:
        """Of a graph's results for all feeds: what ``Evaluation`` says."""
        evaluation = self.begin()
        evaluation.take(range(self.noise.feeds), results)
        return evaluation.noise, evaluation.used


class Evaluation:
    """One graph, as far as its outputs were taken in."""

    def __init__(self, reference: Reference) -> None:
        self._reference, self._trial = reference, reference.gate.begin()
        self._shares: dict[int, np.ndarray] = {}

    def take(self, indices: Sequence[int], results: Iterable[Feed]) -> None:
        """Take in what the graph answers to the feeds of these numbers."""
        for index, found in zip(indices, self._trial.passing(results, indices), strict=False):
            self._shares[index] = self._reference.noise.shares(index, found)

    @property
    def noise(self) -> np.ndarray:
        """float64[feeds], the noise in dB of what was taken in, by the numbers of feeds."""
        return in_decibels(self._array)

    @property
    def used(self) -> float:
        """The share of the tolerance that is used, above 1 if it does not hold."""
        parts = float(self._array.mean(axis=0).max()) / 10 ** (PART / 10) if self._reference.joined else 0.0
        return max(self._trial.used, parts)

    @property
    def _array(self) -> np.ndarray:
        return np.array([self._shares[index] for index in sorted(self._shares)])


class GateTrial:
    """The outputs of one graph, feed by feed."""

    def __init__(self, comparison: OutputComparison, expected: Sequence[Feed]) -> None:
        self._comparison, self._expected = comparison, expected

    def passing(self, results: Iterable[Feed], indices: Iterable[int] | None = None) -> Iterator[Feed]:
        """``results`` as they are, each taken in on its way.

        An output whose shape depends on values is left out: verification refuses it, whatever the precision.

        Args:
            indices: numbers of the feeds that they answer; ``None`` for all feeds.
        """
        numbers = range(len(self._expected)) if indices is None else indices
        for found, index in zip(results, numbers, strict=False):
            wanted = self._expected[index]
            alike = [name for name, value in wanted.items() if found[name].shape == value.shape]
            self._comparison.add({name: found[name] for name in alike}, {name: wanted[name] for name in alike})
            yield found

    @property
    def used(self) -> float:
        """The share of the tolerance that is used, in noise power, of the output that uses most; above 1 it fails."""
        return max((_used(output) for output in self._comparison.results()), default=0.0)


def _strict(rule: OutputTolerance) -> OutputTolerance:
    """The tolerance with the margin; an angle's cosine falls with the power of the noise."""
    return rule.model_copy(
        update={
            "atol": None if rule.atol is None else MARGIN * rule.atol,
            "rtol": None if rule.rtol is None else MARGIN * rule.rtol,
            "min_cosine": None if rule.min_cosine is None else 1 - MARGIN**2 * (1 - rule.min_cosine),
            "min_snr_db": None if rule.min_snr_db is None else rule.min_snr_db - 20 * math.log10(MARGIN),
        }
    )


def _used(output: OutputParity) -> float:
    """The figure of one output, which agrees with its verdict; where no criterion is a mean, the verdict alone."""
    rule, shares = output.tolerance, [0.0]
    if output.cosine is not None and rule.min_cosine is not None:
        shares.append(_ratio(1 - output.cosine, 1 - rule.min_cosine))
    if output.cosine is not None and rule.min_snr_db is not None:
        shares.append(10 ** ((rule.min_snr_db - output.snr_db) / 10))
    if output.cosine is not None and rule.stat == "mean":
        scale = output.spread if output.about_mean else output.scale
        shares.append(_ratio(output.mean_abs, (rule.atol or 0.0) + (rule.rtol or 0.0) * scale) ** 2)
    share = max(shares)
    if not output.passed:
        return share if share > 1 else 2.0  # NaN too
    return min(share, 1.0)


def _ratio(found: float, limit: float) -> float:
    if limit > 0:
        return found / limit
    return math.inf if found > 0 else 0.0
