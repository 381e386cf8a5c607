"""Corrections of a quantized model, each kept only where it reduces the noise at the outputs; no labels are needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.corrections import Corrections, CorrectionTrial, Smoothing, packed
from trtpipe.calibration.methods import CalibrationMethod
from trtpipe.calibration.ranges import range_of
from trtpipe.calibration.statistics import TensorStatistics
from trtpipe.data.selection import sample_feeds
from trtpipe.passes.constants import along
from trtpipe.quantization.bias_correction import FEWEST, typical_correction
from trtpipe.quantization.channel_measures import Maxima
from trtpipe.quantization.correction_trials import Trial, TrialRunner
from trtpipe.quantization.output_gate import OutputGate, Reference
from trtpipe.quantization.output_noise import OutputNoise
from trtpipe.quantization.range_search import FEED_BYTES, FEEDS, SIGMAS, surely_less
from trtpipe.quantization.rounding_estimate import Smoothed, falls_by
from trtpipe.quantization.smooth_quant import smooth_groups, smoothing_factors
from trtpipe.reference.reference_outputs import run_all, run_known

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from trtpipe.artifact import Feed
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.calibration.statistics import Statistics
    from trtpipe.config.stage_settings import GateSettings
    from trtpipe.data.sample import Dataset
    from trtpipe.progress import Progress
    from trtpipe.quantization.mac_count import CountedGraph
    from trtpipe.quantization.plan import QuantizationPlan

#: How much of the unevenness goes into the weights; 0.5 is the paper's, larger ones suit heavier tails. The one in the
#: middle goes first: where it gains nothing on a few samples, the others are not tried.
STRENGTHS = (0.65, 0.5, 0.8)
#: The trial without corrections.
_NONE = "none"
#: dB that smoothing must be expected to gain (see ``RoundingEstimate``) to be worth a trial.
_WORTH_SMOOTHING = 2.5
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
    statistics: Statistics,
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
    trials = TrialRunner(graph, plan, statistics, workdir)
    drawn = sample_feeds(dataset, _SMOOTHED_ON, FEED_BYTES)
    trial = min(max(ranges.samples // _EVERY, FEWEST), FEEDS)
    maxima = Maxima(trials.groups.values())
    means: list[Feed] = []

    def see(drawn: list[Feed]) -> tuple[list[Feed], list[Feed]]:
        with trials.exact(maxima) as exact:

            def taken(found: Feed) -> Feed:
                maxima.update(found, exact.maxima)
                means.append({node: found[mean] for node, mean in exact.means.items()})
                return {name: found[name] for name in (*trials.compared, *trials.outputs)}

            return run_all(exact.runner, drawn, tolerant, taken)

    feeds, outputs = see(drawn[:trial])
    samples = TrialSamples(feeds, outputs, trials.compared, trials.outputs)
    reference = samples.reference(gate)
    if not reference.noise.informative or not plan.points:
        return Found(Corrections(), samples, np.zeros(0), 0.0)
    plain = trials.run(Corrections(), feeds, reference)
    smoother = Smoother(trials, ranges, maxima)
    candidates = smoother.candidates() if plain.noise.mean() > _QUIET else {}
    progress.advance("correction", 1, len(STRENGTHS) + 2)
    found, best = _best_smoothing(trials, candidates, plain, feeds, reference, progress, lambda: see(drawn[trial:]))
    if (best.noise.mean() > ENOUGH or best.used > _AMPLE) and trials.worth_compensation(best.corrections, maxima):
        best = _compensation(trials, best, feeds, reference, found)
    best = _biases(trials, best, feeds, means, reference, found)
    return Found(best.corrections.model_copy(update={"trials": tuple(found)}), samples, best.noise, best.used)


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
    if len(feeds) < FEWEST:
        return best
    rounding = trials.compensation(best.corrections, feeds[::2])
    corrections = best.corrections.model_copy(update={"rounding": rounding})
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
        means: of the float32 graph on the feeds, see ``Exact.means``.
    """
    if len(feeds) < FEWEST or not trials.correctable:
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
    """The better of ``best`` and one with ``corrections``, which were found on every second feed, on the others; the
    former run only if it is better, because they tell nothing of that.
    """
    seen, held = range(0, len(feeds), 2), range(1, len(feeds), 2)
    with trials.quantized(corrections) as runner:
        evaluation = reference.begin()
        evaluation.take(held, (run_known(runner, feeds[index]) for index in held))
        before = best.noise[held]
        taken = surely_less(evaluation.noise, before, _CORRECTION_GAIN, sigmas)
        noise = float(best.noise.mean() + (evaluation.noise - before).mean())
        if taken:
            evaluation.take(seen, (run_known(runner, feeds[index]) for index in seen))
            noise = float(evaluation.noise.mean())
    found.append(CorrectionTrial(correction=name, noise=noise, taken=taken))
    return Trial(corrections, evaluation.noise, evaluation.used) if taken else best


class Smoother:
    """Finds how activations are smoothed.

    Args:
        maxima: what is known of them so far.
    """

    def __init__(self, trials: TrialRunner, ranges: Ranges, maxima: Maxima) -> None:
        self._trials, self._ranges, self._maxima = trials, ranges, maxima
        self._groups = {name: group for name, group in trials.groups.items() if maxima.seen[name].any()}
        self._weights: dict[str, np.ndarray] = {}

    def candidates(self) -> dict[str, Callable[[list[Feed]], dict[str, Smoothing]]]:
        """What is worth a trial -> how every activation is smoothed then, with its range on some feeds."""
        if not self._groups:
            return {}
        estimate, seen = self._trials.estimate(), self._maxima.seen
        self._weights = estimate.maxima
        first = self._factors(STRENGTHS[0])
        before, after = (
            estimate.noises({name: Smoothed(seen[name], factors) for name, factors in each.items()})
            for each in ({name: np.ones_like(found) for name, found in first.items()}, first)
        )
        if falls_by(before, after) < _WORTH_SMOOTHING:
            return {}
        return {f"smooth {each:g}": partial(self._smoothing, each) for each in STRENGTHS}

    def _factors(self, strength: float) -> dict[str, np.ndarray]:
        found = {}
        for name, group in self._groups.items():
            seen = self._maxima.seen[name]
            factors = smoothing_factors(seen, self._weights[name], strength)
            least = self._maxima.between[name] / self._trials.largest
            found[name] = group.within_limits(np.maximum(factors, least), seen)
        return found

    def _smoothing(self, strength: float, some: list[Feed]) -> dict[str, Smoothing]:
        groups, factors = self._groups, self._factors(strength)
        before, after = ({name: TensorStatistics() for name in groups} for _ in range(2))
        with self._trials.activations() as runner:  # one large graph is open at a time
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
                amax=self._range(name, before[name], after[name]),
            )
            for name, divisor in factors.items()
        }

    def _range(self, name: str, before: TensorStatistics, after: TensorStatistics) -> float:
        """The range of a smoothed tensor, by the method that chose the range of the tensor as it was.

        A few feeds miss the extremes of all the data. So the range is as much larger than theirs as it was before.
        """
        old = self._ranges.tensors[name]
        method = CalibrationMethod(old.method, old.percentile)
        few, smoothed = (range_of(name, each, method, self._trials.plan.format).amax for each in (before, after))
        return smoothed * max(old.amax / few, 1.0) if few else smoothed
