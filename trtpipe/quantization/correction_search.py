"""Corrections of a quantized model, each kept only where it reduces the noise at the outputs; no labels are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.corrections import Corrections, CorrectionTrial, Smoothing, packed
from trtpipe.calibration.methods import CalibrationMethod
from trtpipe.calibration.ranges import range_of
from trtpipe.calibration.statistics import TensorStatistics
from trtpipe.config.formats import FP32
from trtpipe.data.selection import subsample_feeds
from trtpipe.passes.constants import along, channel_rows
from trtpipe.passes.expose import expose_too
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.logits import show_logits
from trtpipe.quantization.apply_corrections import apply_corrections
from trtpipe.quantization.bias_correction import FEWEST, correct_means, correctable, measure_means, typical_correction
from trtpipe.quantization.output_noise import OutputNoise
from trtpipe.quantization.qdq import InsertQDQ
from trtpipe.quantization.range_search import FEED_BYTES, FEEDS, surely_less
from trtpipe.quantization.smooth_quant import smooth_groups, smoothing_factors
from trtpipe.reference.reference_outputs import opened, run_all, run_known

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    import onnx_ir as ir

    from trtpipe.artifact import Feed
    from trtpipe.backends.base import OpenRunner
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.data.sample import Dataset
    from trtpipe.isolation.reducer import Runner
    from trtpipe.progress import Progress
    from trtpipe.quantization.mac_count import CountedGraph
    from trtpipe.quantization.plan import QuantizationPlan
    from trtpipe.quantization.smooth_quant import SmoothGroup

#: How much of the unevenness goes into the weights; 0.5 is the paper's, larger ones suit heavier tails.
STRENGTHS = (0.5, 0.65, 0.8)
#: The trial without corrections.
_NONE = "none"
#: dB that smoothing must gain at least, and correcting biases; in any case more than chance (see ``surely_less``).
_GAIN, _CORRECTION_GAIN = 0.5, 0.2
#: Share of the largest number of a 16-bit format that values may reach when they are smoothed.
_ROOM = 0.5


def find_corrections(
    plan: QuantizationPlan,
    graph: CountedGraph,
    ranges: Ranges,
    dataset: Dataset,
    workdir: Path,
    progress: Progress,
    *,
    tolerant: bool,
) -> Corrections:
    """Try SmoothQuant with several strengths for the whole model, then bias correction on top of the best.

    Costs 5.5 runs of the quantized graph and 2.5 of the float32 graph on up to 32 samples; where there are no
    activations to smooth, 2.5 and 1.5.

    Args:
        plan: with ``ranges``.
        tolerant: leave out samples on which the float32 graph fails or is not finite.

    Returns:
        The corrections; none if the outputs tell nothing.
    """
    trials = TrialRunner(graph, plan, workdir)
    feeds = subsample_feeds(dataset, FEEDS, FEED_BYTES)
    with trials.exact() as runner:
        maxima = Maxima(trials.groups)

        def taken(found: Feed) -> Feed:
            maxima.update(found)
            return {name: found[name] for name in trials.outputs}

        feeds, outputs = run_all(runner, feeds, tolerant, taken)
        reference = OutputNoise(outputs, trials.outputs)
        if not reference.informative or not plan.points:
            return Corrections()
        candidates = _smoothings(trials, ranges, runner, feeds, maxima)
    found, best = _best_smoothing(trials, candidates, feeds, reference, progress)
    biases = _biases(trials, best, feeds, reference, found)
    return Corrections(smoothing=best.smoothing, biases=biases, trials=tuple(found))


@dataclass(frozen=True, eq=False)
class _Best:
    """The best smoothing, and the noise with it: float64[feeds] in dB."""

    smoothing: dict[str, Smoothing]
    noise: np.ndarray


def _best_smoothing(
    trials: TrialRunner,
    candidates: Mapping[str, dict[str, Smoothing]],
    feeds: list[Feed],
    reference: OutputNoise,
    progress: Progress,
) -> tuple[list[CorrectionTrial], _Best]:
    noises: dict[str, np.ndarray] = {}
    for done, (name, candidate) in enumerate(candidates.items(), start=1):
        noises[name] = trials.noise(Corrections(smoothing=candidate), feeds, reference)
        progress.advance("correction", done, len(candidates))
    best = min(noises.keys() - {_NONE}, key=lambda name: (noises[name].mean(), name), default=_NONE)
    if best != _NONE and not surely_less(noises[best], noises[_NONE], _GAIN):
        best = _NONE
    found = [
        CorrectionTrial(correction=name, noise=float(noise.mean()), taken=name in (_NONE, best))
        for name, noise in noises.items()
    ]
    return found, _Best(candidates[best], noises[best])


def _biases(
    trials: TrialRunner,
    best: _Best,
    feeds: list[Feed],
    reference: OutputNoise,
    found: list[CorrectionTrial],
) -> dict[str, str]:
    """Corrections of biases, found on every second feed and evaluated on the others; adds the trial to ``found``."""
    if len(feeds) < FEWEST or not trials.corrects:
        return {}
    wanted = trials.wanted_corrections(Corrections(smoothing=best.smoothing), feeds[::2])
    typical = {node: typical_correction(each) for node, each in wanted.items()}
    biases = {node: packed(bias) for node, bias in typical.items() if bias.any()}
    noise = trials.noise(Corrections(smoothing=best.smoothing, biases=biases), feeds, reference)
    held = slice(1, None, 2)
    taken = surely_less(noise[held], best.noise[held], _CORRECTION_GAIN)
    found.append(CorrectionTrial(correction="bias correction", noise=float(noise.mean()), taken=taken))
    return biases if taken else {}


def _smoothings(
    trials: TrialRunner, ranges: Ranges, runner: Runner, feeds: list[Feed], maxima: Maxima
) -> dict[str, dict[str, Smoothing]]:
    """What is tried -> how every activation would be smoothed, and its range then; first of all nothing."""
    groups = {name: group for name, group in trials.groups.items() if maxima.seen[name].any()}
    factors = {
        (name, strength): np.maximum(
            smoothing_factors(maxima.seen[name], group.weight_maxima(), strength), maxima.between[name] / trials.largest
        )
        for name, group in groups.items()
        for strength in STRENGTHS
    }
    statistics = {each: TensorStatistics() for each in factors}
    for feed in feeds if factors else ():
        found = run_known(runner, feed)
        for (name, strength), divisor in factors.items():
            value = found[name]
            if value.size:
                statistics[name, strength].update(value / along(divisor, groups[name].axis, value.ndim))
    candidates: dict[str, dict[str, Smoothing]] = {_NONE: {}}
    for (name, strength), divisor in factors.items():
        old = ranges.tensors[name]
        method = CalibrationMethod(old.method, old.percentile)
        new = range_of(name, statistics[name, strength], method, trials.plan.format)
        entry = Smoothing(factors=packed(divisor), inserted=groups[name].fold is None, amax=new.amax)
        candidates.setdefault(f"smooth {strength:g}", {})[name] = entry
    return candidates


class TrialRunner:
    """Builds and runs the graphs on which corrections of a plan are tried; files live in ``workdir`` meanwhile.

    Attributes:
        plan: with ranges.
        groups: activations that can be smoothed; only for integers, because a floating-point type needs none of it.
        outputs: names of the outputs to compare: those of the model, or what saturating operators make them from.
        corrects: whether there are biases to correct.
        largest: what values may reach when they are smoothed.
    """

    def __init__(self, graph: CountedGraph, plan: QuantizationPlan, workdir: Path) -> None:
        self.plan, self._graph, self._workdir = plan, graph, workdir
        model = graph.load()
        smooth = smooth_groups(model, plan.points) if plan.format.kind == "integer" else ()
        self.groups: dict[str, SmoothGroup] = {group.name: group for group in smooth}
        self.corrects = bool(correctable(model, plan))
        self.largest = np.inf if plan.scales is FP32 else _ROOM * plan.scales.largest
        show_logits(model)
        self.outputs = tuple(str(value.name) for value in model.graph.outputs)

    def exact(self) -> AbstractContextManager[OpenRunner]:
        """The float32 graph that also gives the activations of ``groups``, and what lies before them."""
        model = self._graph.load()
        show_logits(model)
        folds = [] if np.isinf(self.largest) else [group.fold for group in self.groups.values() if group.fold]
        wanted = dict.fromkeys([*self.groups, *(str(value.name) for fold in folds for value in fold.between)])
        expose_too(model, [name for name in wanted if name not in self.outputs])
        return self._opened(model)

    def noise(self, corrections: Corrections, feeds: list[Feed], reference: OutputNoise) -> np.ndarray:
        """float64[feeds]: noise over signal in dB of the graph quantized with ``corrections``."""
        model, _ = self._quantized(corrections)
        show_logits(model)
        with self._opened(model) as runner:
            return reference.decibels(run_known(runner, feed) for feed in feeds)

    def wanted_corrections(self, corrections: Corrections, feeds: list[Feed]) -> dict[str, np.ndarray]:
        """float64[feeds, channels] of every node: what makes the means of the quantized graph the exact ones."""
        model, outputs = self._quantized(corrections)
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


class Maxima:
    """The largest magnitude of every channel of some activations, and of what lies between each and its fold."""

    def __init__(self, groups: Mapping[str, SmoothGroup]) -> None:
        self.seen, self.between = (
            {name: np.zeros(group.channels, np.float32) for name, group in groups.items()} for _ in range(2)
        )
        self._groups = groups

    def update(self, found: Feed) -> None:
        """Take in one run."""
        for name, group in self._groups.items():
            _raise(self.seen[name], found[name], group.axis)
            for value in group.fold.between if group.fold is not None else ():
                if value.name in found:
                    _raise(self.between[name], found[str(value.name)], group.axis)


def _raise(maxima: np.ndarray, value: np.ndarray, axis: int) -> None:
    """Raise the maxima of channels to those of ``value``."""
    if value.size:
        np.maximum(maxima, channel_rows(np.abs(value), axis).max(axis=1), out=maxima)


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
