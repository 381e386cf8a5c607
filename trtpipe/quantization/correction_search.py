"""Corrections of a quantized model, each kept only where it reduces the noise at the outputs; no labels are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.corrections import Corrections, Smoothing, Trial, packed
from trtpipe.quantization.evaluator import FEED_BYTES, FEEDS
from trtpipe.quantization.output_noise import OutputNoise
from trtpipe.quantization.trial_runner import Bench, Maxima, along
from trtpipe.reference.reference_outputs import run_all, run_known

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trtpipe.artifact import Feed
    from trtpipe.backends.base import Runner
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.config.settings import Settings
    from trtpipe.config.stage_settings import QuantizationSettings
    from trtpipe.data.sample import Dataset
    from trtpipe.progress import Progress

#: How much of the unevenness goes into the weights; 0.5 is the paper's, larger ones suit heavier tails.
STRENGTHS = (0.5, 0.65, 0.8)
#: dB that evening out must gain at least, and correcting biases; in any case more than chance (see ``surely_less``).
_GAIN, _CORRECTION_GAIN = 0.5, 0.2


def find_corrections(
    settings: QuantizationSettings,
    simplified: Path,
    ranges: Ranges,
    dataset: Dataset,
    workdir: Path,
    runtime: Settings,
    progress: Progress,
    *,
    tolerant: bool,
) -> Corrections:
    """Try SmoothQuant with several strengths for the whole model, then bias correction on top of the best.

    Costs 5.5 runs of the quantized graph and 2.5 of the float32 graph on up to 32 samples; where there are no
    activations to even out, 2.5 and 1.5.

    Args:
        tolerant: leave out samples on which the float32 graph fails or is not finite.

    Returns:
        The corrections; none if the outputs say nothing.
    """
    from trtpipe.data.selection import subsample_feeds

    bench = Bench(settings, simplified, ranges, workdir, runtime)
    feeds = subsample_feeds(dataset, FEEDS, FEED_BYTES)
    with bench.exact() as runner:
        maxima = Maxima(bench.groups)

        def taken(found: Feed) -> Feed:
            maxima.update(found)
            return {name: found[name] for name in bench.outputs}

        feeds, outputs = run_all(runner, feeds, tolerant, taken)
        reference = OutputNoise(outputs, bench.outputs)
        if not reference.telling or not bench.quantizes:
            return Corrections()
        candidates = _smoothings(bench, runner, feeds, maxima)
    trials, best = _best_smoothing(bench, candidates, feeds, reference, progress)
    biases = _corrections(bench, best, feeds, reference, trials)
    return Corrections(smoothing=best.smoothing, biases=biases, trials=tuple(trials))


@dataclass(frozen=True, eq=False)
class _Best:
    """The best smoothing, and the noise with it: float64[feeds] in dB."""

    smoothing: dict[str, Smoothing]
    noise: np.ndarray


def _best_smoothing(
    bench: Bench,
    candidates: Mapping[float, dict[str, Smoothing]],
    feeds: list[Feed],
    reference: OutputNoise,
    progress: Progress,
) -> tuple[list[Trial], _Best]:
    from trtpipe.quantization.range_search import surely_less

    total = len(candidates) + 1
    first = bench.noise(Corrections(), feeds, reference)
    progress.advance("correction", 1, total)
    noises: dict[float, np.ndarray] = {}
    for done, (strength, candidate) in enumerate(candidates.items(), start=2):
        noises[strength] = bench.noise(Corrections(smoothing=candidate), feeds, reference)
        progress.advance("correction", done, total)
    best = min(noises, key=lambda strength: (noises[strength].mean(), strength)) if noises else None
    if best is not None and not surely_less(noises[best], first, _GAIN):
        best = None
    trials = [Trial(correction="none", noise=float(first.mean()), taken=True)]
    trials += [
        Trial(correction=f"smooth {strength:g}", noise=float(noise.mean()), taken=strength == best)
        for strength, noise in noises.items()
    ]
    return trials, _Best({}, first) if best is None else _Best(candidates[best], noises[best])


def _corrections(
    bench: Bench,
    best: _Best,
    feeds: list[Feed],
    reference: OutputNoise,
    trials: list[Trial],
) -> dict[str, str]:
    """Corrections of biases, found on every second feed and judged on the others; adds the trial to ``trials``."""
    from trtpipe.quantization.bias_search import FEWEST, typical_correction
    from trtpipe.quantization.range_search import surely_less

    if len(feeds) < FEWEST or not bench.corrects:
        return {}
    wanted = bench.wanted_corrections(Corrections(smoothing=best.smoothing), feeds[::2])
    found = {node: typical_correction(each) for node, each in wanted.items()}
    biases = {node: packed(bias) for node, bias in found.items() if bias.any()}
    noise = bench.noise(Corrections(smoothing=best.smoothing, biases=biases), feeds, reference)
    held = slice(1, None, 2)
    taken = surely_less(noise[held], best.noise[held], _CORRECTION_GAIN)
    trials.append(Trial(correction="bias correction", noise=float(noise.mean()), taken=taken))
    return biases if taken else {}


def _smoothings(bench: Bench, runner: Runner, feeds: list[Feed], maxima: Maxima) -> dict[float, dict[str, Smoothing]]:
    """Strength -> how every activation would be evened out, and its range then."""
    from trtpipe.calibration.methods import CalibrationMethod
    from trtpipe.calibration.ranges import range_of
    from trtpipe.calibration.statistics import TensorStatistics
    from trtpipe.quantization.smooth_quant import smoothing_factors

    groups = {name: group for name, group in bench.groups.items() if maxima.seen[name].any()}
    factors = {
        (name, strength): smoothing_factors(maxima.seen[name], group.weight_maxima(), strength)
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
    candidates: dict[float, dict[str, Smoothing]] = {}
    for (name, strength), divisor in factors.items():
        old = bench.ranges.tensors[name]
        new = range_of(name, statistics[name, strength], CalibrationMethod(old.method, old.percentile), bench.precision)
        entry = Smoothing(factors=packed(divisor), inserted=groups[name].folds is None, amax=new.amax)
        candidates.setdefault(strength, {})[name] = entry
    return candidates
