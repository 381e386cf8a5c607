"""Higher-precision fallback: keep the few groups of nodes that make most of the noise; no labels are needed.

Rounding errors of different layers nearly add up in power (see ``sensitivity``), and they are very uneven:
often one group, a spectrogram at the front or a narrow head at the end, makes most of the noise and little of the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.corrections import CorrectionTrial
from trtpipe.quantization.output_noise import OutputNoise, noise_alone, noise_of
from trtpipe.quantization.range_search import surely_less
from trtpipe.quantization.simulator import open_simulator
from trtpipe.reference.reference_outputs import exact_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtpipe.calibration.corrections import Corrections
    from trtpipe.data.sample import Dataset
    from trtpipe.progress import Progress
    from trtpipe.quantization.mac_count import CountedGraph
    from trtpipe.quantization.plan import QuantizationPlan
    from trtpipe.quantization.simulator import LayerGroup

#: dB: outputs noisier than this need it; ...
POOR = -25.0
#: ... with this much, no more is kept.
_ENOUGH = -30.0
#: Share of the multiply-accumulates that may be kept in higher precision for it.
MOST_WORK = 0.1
#: dB that it must gain, and by how many standard errors over the feeds: fewer than other corrections need, because a
#: node kept in higher precision needlessly costs a little time and no accuracy.
_GAIN, _SIGMAS = 3.0, 2.0
#: Runs of the model for all groups together, and feeds for each of them: at least, and at most.
_RUNS, _FEWEST, _MOST_FEEDS = 400, 4, 16
_FEED_BYTES = 64 << 20


def find_fallback(
    plan: QuantizationPlan,
    graph: CountedGraph,
    dataset: Dataset,
    workdir: Path,
    progress: Progress,
    *,
    tolerant: bool,
) -> Corrections:
    """The corrections of ``plan``, and with them the groups to keep in higher precision, if that helps.

    The groups are found on every second feed and evaluated on the others.

    Args:
        plan: with ranges and corrections.
        tolerant: leave out samples on which the float32 graph fails or is not finite.
    """
    corrections = plan.corrections
    if corrections.noise is None or corrections.noise <= POOR:
        return corrections
    with open_simulator(graph, plan, workdir) as session:
        count = len(session.groups)
        if not 2 <= count <= _RUNS // _FEWEST:
            return corrections
        most = 2 * min(max(_RUNS // count, _FEWEST), _MOST_FEEDS)
        feeds, expected = exact_outputs(
            graph.path, dataset, most, _FEED_BYTES, workdir, graph.runtime, tolerant=tolerant
        )
        noise, held = OutputNoise(expected[::2]), OutputNoise(expected[1::2])
        if not noise.informative or not held.informative:
            return corrections
        alone = noise_alone(session, noise, feeds[::2], progress, "fallback")
        total = sum(plan.macs.get(point.result, 0) for point in plan.points)
        kept = sensitive(session.groups, alone, MOST_WORK * total)
        if not kept:
            return corrections
        rest = [index for index in range(count) if index not in kept]
        shares = (noise_of(session, on, held, feeds[1::2]) for on in (range(count), rest))
        before, after = (10 * np.log10(np.maximum(share, 1e-12)) for share in shares)
    taken = surely_less(after, before, _GAIN, _SIGMAS)
    name = f"{len(kept)} of {count} groups in higher precision"
    trial = CorrectionTrial(correction=name, noise=float(after.mean()), taken=taken)
    reasons = {
        node: f"sensitive: quantized alone, {10 * np.log10(alone[index]):.1f} dB noise over signal at the outputs"
        for index in sorted(kept)
        for node in session.groups[index].nodes
    }
    return corrections.model_copy(
        update={"trials": (*corrections.trials, trial), "kept": reasons if taken else corrections.kept}
    )


def sensitive(groups: Sequence[LayerGroup], alone: Sequence[float], most: float) -> frozenset[int]:
    """The groups to keep in higher precision.

    Most noise for their work first, until the rest is quiet enough, or the multiply-accumulates are spent.

    Args:
        alone: noise over signal power of each group by itself.
        most: multiply-accumulates that may be kept.
    """
    left, spent, kept = float(sum(alone)), 0, set[int]()
    for index in sorted(range(len(groups)), key=lambda each: (-alone[each] / max(groups[each].macs, 1), each)):
        if left <= 10 ** (_ENOUGH / 10):
            break
        if spent + groups[index].macs <= most:
            kept.add(index)
            spent += groups[index].macs
            left -= alone[index]
    return frozenset(kept)
