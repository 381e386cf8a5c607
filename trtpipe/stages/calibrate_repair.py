"""Repairs of a quantised model, each kept only where its outputs come nearer to those in float32: no labels needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.repairs import Repairs, Smoothing, Trial, packed
from trtpipe.stages.calibrate_bench import Bench, Maxima, along, channel_means
from trtpipe.stages.calibrate_judge import FEED_BYTES, FEEDS, Reference, run_all

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trtpipe.backends.base import Feed, Runner
    from trtpipe.calibration.bias_search import Correction
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.calibration.sample import Dataset
    from trtpipe.job import Job
    from trtpipe.progress import Progress

#: How much of the unevenness goes into the weights; 0.5 is the paper's, larger ones suit heavier tails.
STRENGTHS = (0.5, 0.65, 0.8)
#: dB that evening out must gain.
_GAIN = 0.5


def find_repairs(
    job: Job, simplified: Path, ranges: Ranges, dataset: Dataset, workdir: Path, progress: Progress
) -> Repairs:
    """Try SmoothQuant with several strengths for the whole model, then bias correction on top of the best.

    Costs at most ``len(STRENGTHS) + 6`` runs of the quantised graph and 2 of the float32 graph on up to 32 samples.

    Returns:
        The repairs; none if the outputs say nothing.
    """
    from trtpipe.calibration.spread import spread_feeds

    bench = Bench(job, simplified, ranges, workdir)
    feeds = spread_feeds(dataset, FEEDS, FEED_BYTES)
    with bench.exact() as (runner, means):
        maxima = Maxima(bench.groups)
        kept = (*bench.outputs, *means.values())

        def taken(found: Feed) -> Feed:
            maxima.update(found)
            return {name: found[name] for name in kept}

        feeds, outputs = run_all(runner, feeds, job.recipe.data.skip_bad_samples > 0, taken)
        reference = Reference(outputs, bench.outputs)
        if not reference.telling or not bench.quantises:
            return Repairs()
        candidates = _smoothings(bench, runner, feeds, maxima)
    exact = {name: channel_means([found[mean] for found in outputs]) for name, mean in means.items()}
    exact = {name: each for name, each in exact.items() if not np.isnan(each).all()}
    trials, best = _best_smoothing(bench, candidates, feeds, reference, progress)
    found = _corrections(bench, best, feeds, reference, exact, progress)
    if found is None:
        return Repairs(smoothing=best, trials=tuple(trials))
    start = next(trial.noise for trial in reversed(trials) if trial.taken)
    trials.append(Trial(repair="bias correction", noise=start - found.gain, taken=bool(found.biases)))
    biases = {name: packed(bias) for name, bias in found.biases.items()}
    return Repairs(smoothing=best, biases=biases, trials=tuple(trials))


def _best_smoothing(
    bench: Bench,
    candidates: Mapping[float, dict[str, Smoothing]],
    feeds: list[Feed],
    reference: Reference,
    progress: Progress,
) -> tuple[list[Trial], dict[str, Smoothing]]:
    from trtpipe.calibration.search import surely_less

    total = len(candidates) + 1
    first = bench.noise({}, feeds, reference)
    progress.advance("repair", 1, total)
    noises: dict[float, np.ndarray] = {}
    for done, (strength, candidate) in enumerate(candidates.items(), start=2):
        noises[strength] = bench.noise(candidate, feeds, reference)
        progress.advance("repair", done, total)
    best = min(noises, key=lambda strength: (noises[strength].mean(), strength)) if noises else None
    if best is not None and not surely_less(noises[best], first, _GAIN):
        best = None
    trials = [Trial(repair="none", noise=float(first.mean()), taken=True)]
    trials += [
        Trial(repair=f"smooth {strength:g}", noise=float(noise.mean()), taken=strength == best)
        for strength, noise in noises.items()
    ]
    return trials, candidates[best] if best is not None else {}


def _corrections(
    bench: Bench,
    smoothing: dict[str, Smoothing],
    feeds: list[Feed],
    reference: Reference,
    exact: Mapping[str, np.ndarray],
    progress: Progress,
) -> Correction | None:
    from trtpipe.calibration.bias_search import ROUNDS, find_corrections

    if not exact:
        return None
    done = 0
    with bench.adjustable(smoothing, feeds, reference, tuple(exact)) as run:

        def counted(corrections: Mapping[str, np.ndarray]) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
            nonlocal done
            done += 1
            progress.advance("correct biases", done, ROUNDS + 1)
            return run(corrections)

        return find_corrections(counted, exact)


def _smoothings(bench: Bench, runner: Runner, feeds: list[Feed], maxima: Maxima) -> dict[float, dict[str, Smoothing]]:
    """Strength -> how every activation would be evened out, and its range then."""
    from trtpipe.calibration.methods import Choice
    from trtpipe.calibration.ranges import range_of
    from trtpipe.calibration.statistics import TensorStatistics
    from trtpipe.passes.smooth import smoothing_factors

    groups = {name: group for name, group in bench.groups.items() if maxima.seen[name].any()}
    factors = {
        (name, strength): smoothing_factors(maxima.seen[name], group.weight_maxima(), strength)
        for name, group in groups.items()
        for strength in STRENGTHS
    }
    statistics = {each: TensorStatistics() for each in factors}
    for feed in feeds if factors else ():
        found = bench.infer(runner, feed)
        for (name, strength), divisor in factors.items():
            value = found[name]
            if value.size:
                statistics[name, strength].update(value / along(divisor, groups[name].axis, value.ndim))
    candidates: dict[float, dict[str, Smoothing]] = {}
    for (name, strength), divisor in factors.items():
        old = bench.ranges.tensors[name]
        new = range_of(name, statistics[name, strength], Choice(old.method, old.percentile), bench.precision)
        entry = Smoothing(factors=packed(divisor), inserted=groups[name].folds is None, amax=new.amax)
        candidates.setdefault(strength, {})[name] = entry
    return candidates
