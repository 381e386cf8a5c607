"""The graphs on which corrections of a plan are tried: built, run, and compared with the float32 graph."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.corrections import Corrections, unpacked
from trtpipe.config.formats import FP32
from trtpipe.passes.expose import expose_too
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.logits import show_logits
from trtpipe.quantization.apply_corrections import apply_corrections
from trtpipe.quantization.bias_correction import correct_means, correctable, measure_means
from trtpipe.quantization.channel_measures import Maxima, measure_maxima
from trtpipe.quantization.error_compensation import compensable, find_steps
from trtpipe.quantization.qdq import InsertQDQ
from trtpipe.quantization.rounding_estimate import RoundingEstimate, Smoothed, without_rounded_weights
from trtpipe.quantization.smooth_quant import smooth_groups
from trtpipe.reference.reference_outputs import opened, run_known

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    import onnx_ir as ir

    from trtpipe.artifact import Feed
    from trtpipe.backends.base import OpenRunner
    from trtpipe.calibration.statistics import Statistics
    from trtpipe.quantization.mac_count import CountedGraph
    from trtpipe.quantization.output_gate import Reference
    from trtpipe.quantization.plan import QuantizationPlan
    from trtpipe.quantization.smooth_quant import SmoothGroup

#: dB that compensating the rounding errors of weights must be expected to gain, if these were not rounded at all.
_WORTH_COMPENSATION = 1.0
#: Share of the largest number of a 16-bit format that values may reach when they are smoothed.
_ROOM = 0.5


@dataclass(frozen=True, eq=False)
class Trial:
    """One quantized graph: its noise, float64[feeds] in dB, and the share of the tolerance that it uses."""

    corrections: Corrections
    noise: np.ndarray
    used: float


@dataclass(frozen=True)
class Exact:
    """The float32 graph that also measures channels.

    Attributes:
        means: node's output -> output with the means of its channels, where its bias can be corrected.
        maxima: activation -> output with the largest magnitudes of its channels.
    """

    runner: OpenRunner
    means: Mapping[str, str]
    maxima: Mapping[str, str]


class TrialRunner:
    """Builds and runs the graphs on which corrections of a plan are tried; files live in ``workdir`` meanwhile.

    Attributes:
        plan: with ranges.
        groups: activations that can be smoothed; only for integers, because a floating-point type needs none of it.
        outputs: names of the model's outputs.
        compared: names of what is compared: outputs, or what saturating operators make them from.
        correctable: output of a node with a bias that can be corrected -> its channels.
        largest: what values may reach when they are smoothed.
    """

    def __init__(self, graph: CountedGraph, plan: QuantizationPlan, statistics: Statistics, workdir: Path) -> None:
        self.plan, self._graph, self._statistics, self._workdir = plan, graph, statistics, workdir
        model = graph.load()
        smooth = smooth_groups(model, plan.points) if plan.format.kind == "integer" else ()
        self.groups: dict[str, SmoothGroup] = {group.name: group for group in smooth}
        self.correctable = correctable(model, plan)
        self.largest = np.inf if plan.scales is FP32 else _ROOM * plan.scales.largest
        self.outputs = tuple(str(value.name) for value in model.graph.outputs)
        self.compared = show_logits(model)

    @contextmanager
    def exact(self, maxima: Maxima) -> Iterator[Exact]:
        """The float32 graph that also measures channels, those that ``maxima`` wants among them."""
        model = self._graph.load()
        show_logits(model, beside=True)
        found = measure_maxima(model, maxima.wanted(between=not np.isinf(self.largest)))
        means = measure_means(model, self.correctable)
        with self._opened(model) as runner:
            yield Exact(runner, means, found)

    @contextmanager
    def activations(self) -> Iterator[OpenRunner]:
        """The float32 graph that also gives the activations of ``groups``."""

        def showing() -> ir.Model:
            model = self._graph.load()
            given = {str(value.name) for value in model.graph.outputs}
            expose_too(model, [name for name in self.groups if name not in given])
            return model

        with self._opened(showing()) as runner:
            yield runner

    @contextmanager
    def quantized(self, corrections: Corrections) -> Iterator[OpenRunner]:
        """The graph quantized with ``corrections``."""

        def showing() -> ir.Model:
            model, _ = self._quantized(corrections)
            show_logits(model, beside=True)
            return model

        with self._opened(showing()) as runner:
            yield runner

    def run(self, corrections: Corrections, feeds: list[Feed], reference: Reference) -> Trial:
        """What the graph quantized with ``corrections`` answers to the first feeds, and how far off that is."""
        with self.quantized(corrections) as runner:
            return Trial(corrections, *reference.evaluate(run_known(runner, feed) for feed in feeds))

    def estimate(self) -> RoundingEstimate:
        """The noise that rounding adds to each node; it holds the weights, so it is not to be kept."""
        return RoundingEstimate(self._graph.load(), self.plan, self._statistics)

    def worth_compensation(self, corrections: Corrections, maxima: Maxima) -> bool:
        """Whether weights make enough of the noise."""
        smoothed = {
            name: Smoothed(maxima.seen[name], unpacked(found.factors)) for name, found in corrections.smoothing.items()
        }
        return without_rounded_weights(self.estimate().noises(smoothed)) >= _WORTH_COMPENSATION

    def compensation(self, corrections: Corrections, feeds: list[Feed]) -> dict[str, str]:
        """What compensates the rounding errors of weights, by what the float32 graph computes on some feeds."""
        model = self._graph.load()
        plan = apply_corrections(model, self.plan.with_corrections(corrections), biases=False)
        layers = compensable(model, plan)
        given = {str(value.name) for value in (*model.graph.inputs, *model.graph.outputs)}
        expose_too(model, [name for name in dict.fromkeys(layer.source for layer in layers) if name not in given])
        with self._opened(model) as runner:
            return find_steps(layers, plan, ({**feed, **run_known(runner, feed)} for feed in feeds), len(feeds))

    def wanted_corrections(
        self, corrections: Corrections, feeds: list[Feed], expected: list[Feed] | None = None
    ) -> dict[str, np.ndarray]:
        """float64[feeds, channels] of every node: what makes the means of the quantized graph the exact ones.

        Args:
            expected: these, of every feed; computed where they are not known.
        """
        model, outputs = self._quantized(corrections)
        if expected is None:
            expected = self._exact_means(corrections, outputs, feeds)
        names = correct_means(model, outputs)
        added: dict[str, list[np.ndarray]] = {node: [] for node in names}
        with self._opened(model) as runner:
            single = {
                spec.name: [size if isinstance(size, int) else 1 for size in spec.shape or ()] for spec in runner.inputs
            }
            for feed, means in zip(feeds, expected, strict=True):
                given = {each.expected: _some(means[node], single[each.expected]) for node, each in names.items()}
                found = run_known(runner, {**feed, **given})
                for node, each in added.items():
                    each.append(found[names[node].added])
        return {node: channel_means(each, outputs[node]) for node, each in added.items()}

    def _exact_means(self, corrections: Corrections, outputs: Mapping[str, int], feeds: list[Feed]) -> list[Feed]:
        """Of every feed: node's output -> means. Smoothing moves factors over nodes, so they are those behind it."""
        model = self._graph.load()
        apply_corrections(model, self.plan.with_corrections(corrections))
        names = measure_means(model, outputs)
        with self._opened(model) as runner:
            runs = (run_known(runner, feed) for feed in feeds)
            return [{node: found[mean] for node, mean in names.items()} for found in runs]

    def _quantized(self, corrections: Corrections) -> tuple[ir.Model, dict[str, int]]:
        """The quantized graph; and output of a quantized node with a bias to correct -> its channels."""
        model = self._graph.load()
        plan = apply_corrections(model, self.plan.with_corrections(corrections))
        outputs = correctable(model, plan)
        run_passes(model, [InsertQDQ(plan)])
        return model, outputs

    def _opened(self, model: ir.Model) -> AbstractContextManager[OpenRunner]:
        return opened(model, self._workdir, self._graph.runtime)


def channel_means(found: list[np.ndarray], channels: int) -> np.ndarray:
    """float64[feeds, channels] of float32[samples, channels, 1...] each; NaN for feeds that gave nothing."""
    return np.stack(
        [
            each.astype(np.float64).reshape(-1, channels).mean(axis=0) if each.size else np.full(channels, np.nan)
            for each in found
        ]
    )


def _some(means: np.ndarray, shape: list[int]) -> np.ndarray:
    """``means``, or zeros of ``shape`` where the branch was not taken: no node reads them there."""
    return means if means.size else np.zeros(shape, np.float32)
