"""Leave the few groups of nodes high that do most of the harm, where 8 bits harm a model much: no labels needed.

Rounding errors of different layers nearly add up in power (see ``accuracy.sensitivity``), and they are very uneven:
often one group, a spectrogram at the front or a narrow head at the end, makes most of the noise and little of the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.corrections import Trial
from trtpipe.quantization.group_noise import noise_alone, noise_of
from trtpipe.quantization.output_noise import OutputNoise
from trtpipe.quantization.simulator import switchboard
from trtpipe.reference.reference_outputs import exact_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtpipe.calibration.corrections import Corrections
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.config.settings import Settings
    from trtpipe.config.stage_settings import QuantizationSettings
    from trtpipe.data.sample import Dataset
    from trtpipe.progress import Progress
    from trtpipe.quantization.simulator import SwitchedGroup

#: dB: outputs noisier than this are in need of help; ...
POOR = -25.0
#: ... with this much, no more is left high.
_ENOUGH = -30.0
#: Share of the work that may be left high for it.
MOST_WORK = 0.1
#: dB that it must gain, and by how many standard errors over the feeds: fewer than other corrections need, because a
#: node kept in higher precision needlessly costs a little time and no accuracy.
_GAIN, _SIGMAS = 3.0, 2.0
#: Runs of the model for all groups together, and feeds for each of them: at least, and at most.
_RUNS, _FEWEST, _MOST_FEEDS = 400, 4, 16
_FEED_BYTES = 64 << 20


def rescue(
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
    """The corrections of ``ranges``, and with them the groups to leave high, if that helps.

    The groups are found on every second feed and judged on the others.

    Args:
        tolerant: leave out samples on which the float32 graph fails or is not finite.
    """
    from trtpipe.quantization.range_search import surely_less

    corrections = ranges.corrections
    if corrections.noise is None or corrections.noise <= POOR:
        return corrections
    board = switchboard(settings, simplified, ranges, settings.precision.quantized_format, workdir, runtime)
    try:
        if not 2 <= len(board.groups) <= _RUNS // _FEWEST:
            return corrections
        most = 2 * min(max(_RUNS // len(board.groups), _FEWEST), _MOST_FEEDS)
        feeds, expected = exact_outputs(simplified, dataset, most, _FEED_BYTES, workdir, runtime, tolerant=tolerant)
        noise, held = OutputNoise(expected[::2]), OutputNoise(expected[1::2])
        if not noise.telling or not held.telling:
            return corrections
        count = len(board.groups)
        with board.open() as desk:
            alone = noise_alone(desk, noise, feeds[::2], progress, "rescue")
            high = harmful(board.groups, alone)
            if not high:
                return corrections
            rest = [index for index in range(count) if index not in high]
            before, after = (_decibels(noise_of(desk, on, held, feeds[1::2])) for on in (range(count), rest))
        taken = surely_less(after, before, _GAIN, _SIGMAS)
        trial = Trial(correction=f"{len(high)} of {count} groups left high", noise=float(after.mean()), taken=taken)
        reasons = {
            node: f"8 bits here alone make {10 * np.log10(alone[index]):.1f} dB of the outputs' noise over signal"
            for index in sorted(high)
            for node in board.groups[index].nodes
        }
        return corrections.model_copy(
            update={"trials": (*corrections.trials, trial), "high": reasons if taken else corrections.high}
        )
    finally:
        board.close()


def harmful(groups: Sequence[SwitchedGroup], alone: Sequence[float]) -> frozenset[int]:
    """The groups to leave high: most noise for their work first, until the rest is quiet enough, or the work is spent.

    Args:
        alone: noise over signal power of each group by itself.
    """
    total = sum(group.macs for group in groups)
    left, spent, high = float(sum(alone)), 0, set[int]()
    for index in sorted(range(len(groups)), key=lambda each: (-alone[each] / max(groups[each].macs, 1), each)):
        if left <= 10 ** (_ENOUGH / 10):
            break
        if spent + groups[index].macs <= MOST_WORK * total:
            high.add(index)
            spent += groups[index].macs
            left -= alone[index]
    return frozenset(high)


def _decibels(share: np.ndarray) -> np.ndarray:
    decibels: np.ndarray = 10 * np.log10(np.maximum(share, 1e-12))
    return decibels
