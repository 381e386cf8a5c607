"""How much noise rounding adds to the result of each weighted node, by statistics and weights: nothing is run.

Errors of values and of weights are taken to be independent of each other and of what they are multiplied with, as in
the noise model of Widrow & Kollar, "Quantization Noise" (2008): an output's noise is then the sum over its inputs of
the squared error of a value times the squared weight, and of the squared value times the squared error of a weight.
That is good enough to see which correction is worth a trial; what is taken is judged on the graph's outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.methods import quantizer_of
from trtpipe.calibration.statistics import CumulativeHistogram
from trtpipe.passes.constants import along, array_of, channel_rows
from trtpipe.quantization.plan import bound
from trtpipe.quantization.qdq import quantize_weight
from trtpipe.quantization.smooth_quant import smooth_groups

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx_ir as ir

    from trtpipe.calibration.statistics import Statistics
    from trtpipe.quantization.plan import QuantizationPlan, QuantPoint
    from trtpipe.quantization.smooth_quant import Scaling

#: Power of what is always 0.
_TINY = 1e-30


@dataclass(frozen=True)
class Smoothed:
    """An activation as it may be smoothed.

    Attributes:
        seen: float32[channels], the largest magnitude of each.
        factors: float32[channels] that it is divided by.
    """

    seen: np.ndarray
    factors: np.ndarray


@dataclass(frozen=True)
class Noise:
    """Noise over signal power of one node's result, the mean over its channels, 1 at most.

    Attributes:
        inputs: by what its activation is rounded.
        weights: by what its weight is rounded.
    """

    inputs: float
    weights: float


@dataclass(frozen=True, eq=False)
class _Layer:
    """A weighted node.

    Attributes:
        error: mean squared error of a value of its activation.
        power: mean squared value.
        scaling: its weight by input channels, where these can be smoothed.
    """

    point: QuantPoint
    weight: np.ndarray
    error: float
    power: float
    scaling: Scaling | None


class RoundingEstimate:
    """The weighted nodes of a graph.

    Args:
        model: the graph that was planned.
        plan: with ranges.
        statistics: of its tensors.

    Attributes:
        maxima: activation that can be smoothed -> float32[channels], the largest weight that each channel meets.
    """

    def __init__(self, model: ir.Model, plan: QuantizationPlan, statistics: Statistics) -> None:
        self._plan = plan
        groups = smooth_groups(model, plan.points)
        self.maxima = {group.name: group.weight_maxima() for group in groups}
        scalings = {id(reader.node): reader for group in groups for reader in group.readers}
        self._layers = tuple(_layers(model, plan, statistics, scalings))

    def noises(self, smoothed: Mapping[str, Smoothed]) -> list[Noise]:
        """Of every weighted node.

        Args:
            smoothed: activations, as they are smoothed.
        """
        found = (self._noise(layer, smoothed.get(layer.point.inputs[0])) for layer in self._layers)
        return [noise for noise in found if noise is not None]

    def _noise(self, layer: _Layer, smoothed: Smoothed | None) -> Noise | None:
        plan, weight = self._plan, layer.weight
        scaling = layer.scaling if smoothed is not None else None
        if scaling is not None and smoothed is not None:
            weight = scaling.spread(smoothed.factors) * weight
        axis = layer.point.axis if plan.format.granularity == "channel" else None
        codes, scale = quantize_weight(weight, axis, plan.format, plan.weights, plan.scales)
        errors = np.square(codes.astype(np.float32) * along(scale, axis, weight.ndim) - weight)
        power: float | np.ndarray = layer.power
        if scaling is not None and smoothed is not None:  # channels are taken to be as uneven as their largest values
            uneven = np.square(smoothed.seen, dtype=np.float64)
            powers = (
                layer.power * uneven / max(float(uneven.mean()), _TINY) / np.square(smoothed.factors, dtype=np.float64)
            )
            power = scaling.spread(powers.astype(np.float32))
        squares = np.square(weight)
        signal, inputs, weights = (
            channel_rows(each, layer.point.axis).sum(axis=1) for each in (squares * power, squares, errors * power)
        )
        heard = signal > 0
        if not heard.any():
            return None
        inputs, weights = (each[heard] / signal[heard] for each in (layer.error * inputs, weights))
        lost = np.maximum(inputs + weights, 1)  # more noise than signal is no worse than as much
        return Noise(float((inputs / lost).mean()), float((weights / lost).mean()))


def _layers(
    model: ir.Model, plan: QuantizationPlan, statistics: Statistics, scalings: Mapping[int, Scaling]
) -> Iterator[_Layer]:
    quantizer, limits = quantizer_of(plan.format), plan.limits
    for point, node in bound(model, plan.points):
        tensor = statistics.tensors.get(point.inputs[0])
        weight = None if point.weight is None else array_of(node.inputs[point.weight])
        limit = limits.get(point.inputs[0], 0.0)
        if weight is None or tensor is None or not tensor.count or not limit:
            continue
        histogram = CumulativeHistogram.of(tensor)
        error = float(quantizer.expected_error(histogram, np.array([limit]))[0]) / tensor.count
        power = float(histogram.totals[2]) / tensor.count
        yield _Layer(point, weight, error, power, scalings.get(id(node)))


def falls_by(before: list[Noise], after: list[Noise]) -> float:
    """dB by which the noise of all nodes together falls."""
    first, second = (sum(noise.inputs + noise.weights for noise in each) for each in (before, after))
    return float(10 * np.log10(first / second)) if first > 0 and second > 0 else 0.0


def without_rounded_weights(noises: list[Noise]) -> float:
    """dB by which the noise of a node falls, at the mean of the shares, if its weight is not rounded."""
    shares = [each.weights / (each.weights + each.inputs) for each in noises if each.weights + each.inputs > 0]
    return -10 * float(np.log10(max(1 - np.mean(shares), 1e-3))) if shares else 0.0
