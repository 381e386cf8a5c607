"""The method ``auto``: per tensor the range that loses least, by the model's own output.

Statistics alone cannot say how much of a tensor's rounding reaches the output. So the quantized model itself is run
with different ranges, and the ranges whose output is nearest to that of the float32 model win: no labels are needed.
The number of runs is bounded, and the same data gives the same answer every time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from trtpipe.calibration.methods import AGGRESSIVE_METHODS, AUTO_METHODS, CalibrationMethod
from trtpipe.calibration.ranges import Ranges, TensorRange, range_of, ranges_from_statistics, split_unseen
from trtpipe.errors import InputError
from trtpipe.quantization.output_noise import OutputNoise
from trtpipe.quantization.simulator import open_simulator
from trtpipe.reference.reference_outputs import exact_outputs, run_every

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trtpipe.calibration.statistics import Statistics
    from trtpipe.config.formats import Format
    from trtpipe.data.sample import Dataset
    from trtpipe.progress import Progress
    from trtpipe.quantization.mac_count import CountedGraph
    from trtpipe.quantization.plan import QuantizationPlan

#: Tells how far the output is off if the tensors have these amax: float64[feeds], noise over signal in dB, so below 0.
Evaluator: TypeAlias = Callable[[Mapping[str, float]], np.ndarray]

#: Feeds to evaluate on, and bytes they may take.
FEEDS, FEED_BYTES = 32, 64 << 20

#: Runs of the evaluator at most, besides one for every candidate.
TRIALS = 64

#: Ranges that differ by less than this count as equal.
_ALIKE = 0.02

#: dB: whole-model candidates this near to the best one count as equal; the first of them in AUTO_METHODS wins.
_TIE = 1.0

#: dB: a single tensor's range is changed for no less, ...
_GAIN = 0.5
#: ... and only if the noise falls, over the feeds, by so many standard errors: less may be chance.
SIGMAS = 3.0
#: dB: what a range that clips daringly must gain: two bits, ...
_DARING_GAIN = 12.0
#: ... which none can that is not so much smaller.
_DARING_SHARE = 0.25


@contextmanager
def evaluating(
    plan: QuantizationPlan,
    graph: CountedGraph,
    statistics: Statistics,
    dataset: Dataset,
    workdir: Path,
    *,
    tolerant: bool,
) -> Iterator[Evaluator]:
    """An evaluator of ranges for a plan; its graph is in ``workdir`` meanwhile.

    Args:
        tolerant: leave out samples on which the float32 graph fails or is not finite.

    Raises:
        InputError: the outputs tell nothing, because they are all 0 or hold no floats.
    """
    feeds, expected = exact_outputs(graph.path, dataset, FEEDS, FEED_BYTES, workdir, graph.runtime, tolerant=tolerant)
    noise = OutputNoise(expected)
    if not noise.informative:
        raise InputError(
            "method auto goes by the model's float outputs, and it has none that differ from 0",
            "choose another method, for example --method mse",
        )
    widest = plan.calibrated(ranges_from_statistics(statistics, "max", 100.0, plan.format))
    with open_simulator(graph, widest, workdir) as session:
        runner = session.set(range(len(session.groups)), runs=TRIALS * len(feeds))

        def evaluate(amax: Mapping[str, float]) -> np.ndarray:
            return noise.decibels(run_every(runner, feeds, session.scales(amax)))

        yield evaluate


def search_ranges(statistics: Statistics, evaluate: Evaluator, precision: Format, progress: Progress) -> Ranges:
    """Find the ranges with which the evaluator sees least noise.

    1. Every candidate method is tried for the whole model. Where the best are as good as equal, the order of
       AUTO_METHODS decides: differences so small do not show in a task's metric. One of AGGRESSIVE_METHODS must be
       better by 12 dB.
    2. From there on, tensor after tensor is given another candidate's range; what helps stays. Tensors that
       differ most between the candidates come first; ``TRIALS`` bounds the work.

    Raises:
        InputError: no tensor held any value, or one held NaN or infinity.
    """
    seen, unseen = split_unseen(statistics)
    options = {
        choice: {name: range_of(name, tensor, choice, precision) for name, tensor in seen.items()}
        for choice in (*AUTO_METHODS, *AGGRESSIVE_METHODS)
    }
    total = len(options) + TRIALS
    noises: dict[CalibrationMethod, np.ndarray] = {}
    for done, (choice, ranges) in enumerate(options.items(), start=1):
        noises[choice] = evaluate(_amax(ranges))
        progress.advance("choose ranges", done, total)
    start = _start(noises)
    chosen, least = dict(options[start]), noises[start]
    for done, (name, rival, gain) in enumerate(_trials(options, start, TRIALS), start=len(options) + 1):
        if not _alike(chosen[name], rival):
            noise = evaluate(_amax({**chosen, name: rival}))
            if surely_less(noise, least, gain):
                chosen[name], least = rival, noise
        progress.advance("choose ranges", done, total)
    progress.advance("choose ranges", total, total)
    return Ranges(
        method="auto", samples=statistics.samples, data_summary=statistics.data_summary, tensors=chosen, unseen=unseen
    )


def _start(noises: Mapping[CalibrationMethod, np.ndarray]) -> CalibrationMethod:
    """The method to begin with, for the whole model."""
    lowest = min(noises[choice].mean() for choice in AUTO_METHODS)
    daring = min(AGGRESSIVE_METHODS, key=lambda choice: noises[choice].mean())
    if noises[daring].mean() < lowest - _DARING_GAIN:
        return daring
    return next(choice for choice in AUTO_METHODS if noises[choice].mean() <= lowest + _TIE)


def _trials(
    options: Mapping[CalibrationMethod, Mapping[str, TensorRange]], start: CalibrationMethod, limit: int
) -> Iterator[tuple[str, TensorRange, float]]:
    """(tensor, range to try instead, dB it must gain), at most ``limit``: first the tensors on which methods differ
    most.
    """

    def spread(name: str) -> float:
        found = [ranges[name].amax for ranges in options.values()]
        return max(found) / min(found) if min(found) > 0 else 1.0

    count = 0
    for name in sorted(options[start], key=lambda name: (-spread(name), name)):
        first = options[start][name]
        tried = [first]
        for choice, ranges in options.items():
            rival, daring = ranges[name], choice in AGGRESSIVE_METHODS
            if count == limit:
                return
            if daring and rival.amax > _DARING_SHARE * first.amax:
                continue
            if not any(_alike(rival, other) for other in tried):
                tried.append(rival)
                count += 1
                yield name, rival, _DARING_GAIN if daring else _GAIN


def surely_less(noise: np.ndarray, other: np.ndarray, least: float, sigmas: float = SIGMAS) -> bool:
    """Whether ``noise`` is below ``other`` by ``least`` dB, and by ``sigmas`` standard errors over the feeds (a paired
    t test): by more than these differ among themselves.
    """
    gain = other - noise
    error = np.std(gain, ddof=1) / np.sqrt(gain.size) if gain.size > 1 else np.inf
    return bool(gain.mean() > max(least, sigmas * error))


def _alike(first: TensorRange, second: TensorRange) -> bool:
    return abs(first.amax - second.amax) <= _ALIKE * max(first.amax, second.amax)


def _amax(ranges: Mapping[str, TensorRange]) -> dict[str, float]:
    return {name: found.amax for name, found in ranges.items()}
