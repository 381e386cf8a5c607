"""Corrections of a quantized model, each kept only where it reduces the noise at the outputs; no labels are needed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.corrections import Corrections, CorrectionTrial, Smoothing, packed
from trtpipe.calibration.methods import CalibrationMethod
from trtpipe.calibration.ranges import range_of
from trtpipe.calibration.statistics import TensorStatistics
from trtpipe.config.formats import FP32
from trtpipe.data.selection import sample_feeds
from trtpipe.passes.constants import along, channel_rows
from trtpipe.passes.expose import expose_too
from trtpipe.passes.graph_pass import run_passes
from trtpipe.passes.logits import show_logits
from trtpipe.quantization.apply_corrections import apply_corrections
from trtpipe.quantization.bias_correction import FEWEST, correct_means, correctable, measure_means, typical_correction
from trtpipe.quantization.error_compensation import compensable, find_steps
from trtpipe.quantization.output_gate import OutputGate, Reference
from trtpipe.quantization.output_noise import OutputNoise
from trtpipe.quantization.qdq import InsertQDQ
from trtpipe.quantization.range_search import FEED_BYTES, FEEDS, SIGMAS, surely_less
from trtpipe.quantization.smooth_quant import smooth_groups, smoothing_factors
from trtpipe.reference.reference_outputs import opened, run_all, run_known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from contextlib import AbstractContextManager
    from pathlib import Path

    import onnx_ir as ir

    from trtpipe.artifact import Feed
    from trtpipe.backends.base import OpenRunner
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.calibration.statistics import Statistics
    from trtpipe.config.stage_settings import GateSettings
    from trtpipe.data.sample import Dataset
    from trtpipe.progress import Progress
    from trtpipe.quantization.mac_count import CountedGraph
    from trtpipe.quantization.plan import QuantizationPlan
    from trtpipe.quantization.smooth_quant import SmoothGroup

#: How much of the unevenness goes into the weights; 0.5 is the paper's, larger ones suit heavier tails. The one in the
#: middle goes first: where it gains nothing on a few samples, the others are not tried.
STRENGTHS = (0.65, 0.5, 0.8)
#: The trial without corrections.
_NONE = "none"
#: dB that smoothing must gain at least, and correcting biases; in any case more than chance (see ``surely_less``).
_GAIN, _CORRECTION_GAIN = 0.5, 0.2
#: Standard errors that error compensation must gain: fewer than others, because the layers' own errors surely fall.
_COMPENSATION_SIGMAS = 2.0
#: dB: with this much noise nothing more needs to be kept in higher precision.
ENOUGH = -30.0
#: Share of the tolerance; with less of it used, and no more noise than ``ENOUGH``, weights are not compensated.
_AMPLE = 0.25
#: dB: outputs with less noise than this are not smoothed.
_QUIET = -40.0
#: Share of the largest number of a 16-bit format that values may reach when they are smoothed.
_ROOM = 0.5
#: One of so many samples is a trial feed, but at least ``FEWEST``: so the search costs a share of the observing pass.
_EVERY = 8
#: Feeds on which corrections are compared first.
_FIRST = 8
#: Feeds of which the extremes of channels are taken, where smoothing gains: fewer than these leave out too many.
_SMOOTHED_ON = 64


@dataclass(frozen=True, eq=False)
class TrialSamples:
    """Some feeds, and what the float32 graph answers to them: computed once for all searches of a calibration.

    Attributes:
        expected: of every feed, the values that are compared and the outputs of the model.
        compared: names of the values in which noise is measured: logits, parts of outputs.
        outputs: names of the model's outputs.
    """

    feeds: list[Feed]
    expected: list[Feed]
    compared: tuple[str, ...]
    outputs: tuple[str, ...]

    def reference(self, gate: GateSettings) -> Reference:
        """What quantized graphs are held against on these feeds."""
        noise = OutputNoise(self.expected, self.compared)
        output_gate = OutputGate(gate.tolerance, gate.precision, self.expected, self.outputs)
        return Reference(noise, output_gate, joined=len(self.compared) > len(self.outputs))


@dataclass(frozen=True, eq=False)
class Found:
    """The corrections of a plan, the samples they were found on, and how they left its outputs.

    Attributes:
        noise: of every feed with the corrections, in dB; none where the outputs tell nothing.
        used: the share of the gate's tolerance that the corrected graph uses; above 1 it fails.
    """

    corrections: Corrections
    samples: TrialSamples
    noise: np.ndarray
    used: float

    def fits(self, tensors: AbstractSet[str]) -> bool:
        """Whether tensors too wide for 8 bits are smoothed, and no longer add noise then."""
        noise = self.corrections.noise
        return tensors <= self.corrections.smoothing.keys() and noise is not None and noise <= ENOUGH and self.used <= 1


def with_smoothable(
    plan: QuantizationPlan, graph: CountedGraph, ranges: Ranges, statistics: Statistics
) -> tuple[Ranges, ...]:
    """Ranges to try in turn: if any tensors too wide for 8 bits can be smoothed, also with these; then as given.

    Args:
        plan: without ranges.
    """
    if not ranges.not_quantizable or plan.format.kind != "integer" or ranges.method == "auto":
        return (ranges,)
    choice = CalibrationMethod(ranges.method, ranges.percentile)
    wide = {
        group.name: range_of(group.name, statistics.tensors[group.name], choice, plan.format)
        for group in smooth_groups(graph.load(), plan.points)
        if group.name in ranges.not_quantizable
    }
    refused = {name: reason for name, reason in ranges.not_quantizable.items() if name not in wide}
    tensors = dict(sorted({**ranges.tensors, **wide}.items()))
    more = ranges.model_copy(update={"tensors": tensors, "not_quantizable": refused})
    return (more, ranges) if wide else (ranges,)


def find_corrections(
    plan: QuantizationPlan,
    graph: CountedGraph,
    ranges: Ranges,
    dataset: Dataset,
    workdir: Path,
    progress: Progress,
    gate: GateSettings,
    *,
    tolerant: bool,
) -> Found:
    """Try SmoothQuant with several strengths for the whole model, then on top of the best error compensation of weights
    and bias correction.

    Costs 3 to 7 runs of the quantized graph and 1.5 to 3 of the float32 graph on an eighth of the samples, which
    are 8 feeds at least and 32 at most; where smoothing gains, the float32 graph runs on up to 64 for the extremes of
    channels. Which these are does not depend on the order of the data.

    Args:
        plan: with ``ranges``.
        gate: when outputs are within tolerance.
        tolerant: leave out samples on which the float32 graph fails or is not finite.

    Returns:
        The corrections; none if the outputs tell nothing.
    """
    trials = TrialRunner(graph, plan, workdir)
    drawn = sample_feeds(dataset, _SMOOTHED_ON, FEED_BYTES)
    trial = min(max(ranges.samples // _EVERY, FEWEST), FEEDS)
    maxima = Maxima(trials.groups)
    means: list[Feed] = []

    def taken(found: Feed) -> Feed:
        maxima.update(found)
        means.append({node: found[mean] for node, mean in trials.means.items()})
        return {name: found[name] for name in (*trials.compared, *trials.outputs)}

    def see(drawn: list[Feed]) -> tuple[list[Feed], list[Feed]]:
        with trials.exact() as runner:
            return run_all(runner, drawn, tolerant, taken)

    feeds, outputs = see(drawn[:trial])
    samples = TrialSamples(feeds, outputs, trials.compared, trials.outputs)
    reference = samples.reference(gate)
    if not reference.noise.informative or not plan.points:
        return Found(Corrections(), samples, np.zeros(0), 0.0)
    plain = trials.run(Corrections(), feeds, reference)
    candidates = _smoothings(trials, ranges, maxima) if plain.noise.mean() > _QUIET else {}
    progress.advance("correction", 1, len(STRENGTHS) + 2)
    found, best = _best_smoothing(trials, candidates, plain, feeds, reference, progress, lambda: see(drawn[trial:]))
    best = _compensation(trials, best, feeds, reference, found)
    best = _biases(trials, best, feeds, means, reference, found)
    return Found(best.corrections.model_copy(update={"trials": tuple(found)}), samples, best.noise, best.used)


@dataclass(frozen=True, eq=False)
class Trial:
    """One quantized graph: its noise, float64[feeds] in dB, and the share of the tolerance that it uses."""

    corrections: Corrections
    noise: np.ndarray
    used: float


def _best_smoothing(
    trials: TrialRunner,
    candidates: Mapping[str, Callable[[list[Feed]], dict[str, Smoothing]]],
    plain: Trial,
    feeds: list[Feed],
    reference: Reference,
    progress: Progress,
    see_more: Callable[[], object],
) -> tuple[list[CorrectionTrial], Trial]:
    """The strengths on a few feeds, and the best of them on all, if it may gain.

    Args:
        see_more: take the extremes of more feeds into account; called once, before the best is tried on all.
    """
    first = slice(0, _FIRST)
    before = float(plain.noise[first].mean())
    noises: dict[str, float] = {}
    for done, (name, candidate) in enumerate(candidates.items(), start=2):
        trial = trials.run(Corrections(smoothing=candidate(feeds[first])), feeds[first], reference)
        noises[name] = float(trial.noise.mean())
        progress.advance("correction", done, len(candidates) + 2)
        if min(noises.values()) > before - _GAIN:
            break
    best, noise = plain, float(plain.noise.mean())
    name = min(noises, key=lambda each: (noises[each], each), default=_NONE)
    if name != _NONE and noises[name] <= before - _GAIN:
        see_more()
        smoothing = candidates[name](feeds)
        trial = trials.run(Corrections(smoothing=smoothing), feeds, reference)
        noises[name] = float(trial.noise.mean())
        if surely_less(trial.noise, plain.noise, _GAIN):
            best = trial
    tried = [
        CorrectionTrial(correction=each, noise=noises[each], taken=each == name and best is not plain)
        for each in sorted(noises)
    ]
    return [CorrectionTrial(correction=_NONE, noise=noise, taken=True), *tried], best


def _compensation(
    trials: TrialRunner, best: Trial, feeds: list[Feed], reference: Reference, found: list[CorrectionTrial]
) -> Trial:
    """The better of ``best`` and the same with rounding errors of weights compensated; adds the trial to ``found``."""
    if len(feeds) < FEWEST or (best.noise.mean() <= ENOUGH and best.used <= _AMPLE):
        return best
    rounding = trials.compensation(best.corrections, feeds[::2])
    corrections = best.corrections.model_copy(update={"rounding": rounding})
    if not rounding:
        return best
    return _better(trials, best, corrections, "error compensation", feeds, reference, found, _COMPENSATION_SIGMAS)


def _biases(
    trials: TrialRunner,
    best: Trial,
    feeds: list[Feed],
    means: list[Feed],
    reference: Reference,
    found: list[CorrectionTrial],
) -> Trial:
    """The better of ``best`` and the same with corrected biases; adds the trial to ``found``.

    Args:
        means: of the float32 graph on the feeds, see ``TrialRunner.means``.
    """
    if len(feeds) < FEWEST or not trials.means:
        return best
    expected = means[: len(feeds)][::2] if not best.corrections.smoothing else None
    wanted = trials.wanted_corrections(best.corrections, feeds[::2], expected)
    typical = {node: typical_correction(each) for node, each in wanted.items()}
    biases = {node: packed(bias) for node, bias in typical.items() if bias.any()}
    corrections = best.corrections.model_copy(update={"biases": biases})
    return _better(trials, best, corrections, "bias correction", feeds, reference, found)


def _better(
    trials: TrialRunner,
    best: Trial,
    corrections: Corrections,
    name: str,
    feeds: list[Feed],
    reference: Reference,
    found: list[CorrectionTrial],
    sigmas: float = SIGMAS,
) -> Trial:
    """The better of ``best`` and one with ``corrections``, which were found on every second feed, on the others."""
    trial = trials.run(corrections, feeds, reference)
    held = slice(1, None, 2)
    taken = surely_less(trial.noise[held], best.noise[held], _CORRECTION_GAIN, sigmas)
    found.append(CorrectionTrial(correction=name, noise=float(trial.noise.mean()), taken=taken))
    return trial if taken else best


def _smoothings(
    trials: TrialRunner, ranges: Ranges, maxima: Maxima
) -> dict[str, Callable[[list[Feed]], dict[str, Smoothing]]]:
    """What is tried -> how every activation is smoothed then, with its range on some feeds."""
    groups = {name: group for name, group in trials.groups.items() if maxima.seen[name].any()}
    weights = {name: group.weight_maxima() for name, group in groups.items()}

    def factors_of(name: str, group: SmoothGroup, strength: float) -> np.ndarray:
        seen = maxima.seen[name]
        factors = smoothing_factors(seen, weights[name], strength)
        return group.within_limits(np.maximum(factors, maxima.between[name] / trials.largest), seen)

    def smoothing(strength: float, some: list[Feed]) -> dict[str, Smoothing]:
        factors = {name: factors_of(name, group, strength) for name, group in groups.items()}
        before, after = ({name: TensorStatistics() for name in groups} for _ in range(2))
        with trials.exact() as runner:  # one large graph is open at a time
            for feed in some:
                found = run_known(runner, feed)
                for name, divisor in factors.items():
                    value = found[name]
                    if value.size:
                        before[name].update(value)
                        after[name].update(value / along(divisor, groups[name].axis, value.ndim))
        return {
            name: Smoothing(
                factors=packed(divisor),
                inserted=groups[name].fold is None,
                amax=_range(trials, ranges, name, before[name], after[name]),
            )
            for name, divisor in factors.items()
        }

    return {f"smooth {each:g}": partial(smoothing, each) for each in STRENGTHS} if groups else {}


def _range(trials: TrialRunner, ranges: Ranges, name: str, before: TensorStatistics, after: TensorStatistics) -> float:
    """The range of a smoothed tensor, by the method that chose the range of the tensor as it was.

    A few feeds miss the extremes of all the data. So the range is as much larger than theirs as it was before.
    """
    old = ranges.tensors[name]
    method = CalibrationMethod(old.method, old.percentile)
    few, smoothed = (range_of(name, each, method, trials.plan.format).amax for each in (before, after))
    return smoothed * max(old.amax / few, 1.0) if few else smoothed


class TrialRunner:
    """Builds and runs the graphs on which corrections of a plan are tried; files live in ``workdir`` meanwhile.

    Attributes:
        plan: with ranges.
        groups: activations that can be smoothed; only for integers, because a floating-point type needs none of it.
        outputs: names of the model's outputs.
        compared: names of what is compared: outputs, or what saturating operators make them from.
        means: node's output -> output of ``exact`` with the means of its channels, where its bias can be corrected.
        largest: what values may reach when they are smoothed.
    """

    def __init__(self, graph: CountedGraph, plan: QuantizationPlan, workdir: Path) -> None:
        self.plan, self._graph, self._workdir = plan, graph, workdir
        model = graph.load()
        smooth = smooth_groups(model, plan.points) if plan.format.kind == "integer" else ()
        self.groups: dict[str, SmoothGroup] = {group.name: group for group in smooth}
        self._channels = correctable(model, plan)
        self.means: dict[str, str] = {}
        self.largest = np.inf if plan.scales is FP32 else _ROOM * plan.scales.largest
        self.outputs = tuple(str(value.name) for value in model.graph.outputs)
        self.compared = show_logits(model)

    @contextmanager
    def exact(self) -> Iterator[OpenRunner]:
        """The float32 graph that also gives the activations of ``groups``, what lies before them, and ``means``."""
        model = self._graph.load()
        show_logits(model, beside=True)
        shown = (*self.compared, *self.outputs)
        folds = [] if np.isinf(self.largest) else [group.fold for group in self.groups.values() if group.fold]
        wanted = dict.fromkeys([*self.groups, *(str(value.name) for fold in folds for value in fold.between)])
        expose_too(model, [name for name in wanted if name not in shown])
        self.means = measure_means(model, self._channels)
        with self._opened(model) as runner:
            yield runner

    def run(self, corrections: Corrections, feeds: list[Feed], reference: Reference) -> Trial:
        """What the graph quantized with ``corrections`` answers to the first feeds, and how far off that is."""
        model, _ = self._quantized(corrections)
        show_logits(model, beside=True)
        with self._opened(model) as runner:
            return Trial(corrections, *reference.evaluate(run_known(runner, feed) for feed in feeds))

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
