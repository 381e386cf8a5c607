"""How much noise groups of a switched graph make at its outputs: each alone, or several together."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.progress import track
from trtpipe.reference.reference_outputs import run_every

if TYPE_CHECKING:
    from collections.abc import Collection

    from trtpipe.artifact import Feed
    from trtpipe.progress import Progress
    from trtpipe.quantization.graph_partition import Cut
    from trtpipe.quantization.output_noise import OutputNoise
    from trtpipe.quantization.simulator import Desk

#: Bytes of values that are held: half of the graph's weights, which are there twice, but between these bounds.
_LEAST_BYTES, _MOST_BYTES = 64 << 20, 256 << 20


def noise_alone(desk: Desk, measure: OutputNoise, feeds: list[Feed], progress: Progress, phase: str) -> list[float]:
    """The noise of each group by itself; for groups behind a cut only what comes behind it is run."""
    cuts, stored = _stored(desk, feeds)
    groups = desk.board.groups
    found: list[float] = []
    for index in track(progress, phase, range(len(groups)), len(groups)):
        cut = next((cut for cut in reversed(cuts) if cut.position < groups[index].first), None)
        found.append(float(noise_of(desk, (index,), measure, feeds if cut is None else stored, cut).mean()))
    return found


def _stored(desk: Desk, feeds: list[Feed]) -> tuple[tuple[Cut, ...], list[Feed]]:
    """The cuts whose values fit into memory, and the feeds with these values in float32."""
    board = desk.board
    values = tuple(dict.fromkeys(name for cut in board.cuts for name in cut.values))
    if not values:
        return (), feeds
    results = run_every(desk.set((), show=values), feeds, board.scales(board.amax))
    first = next(results)
    cuts, held = [], 0
    most = min(max(board.weight_bytes // 2, _LEAST_BYTES), _MOST_BYTES)
    for cut in board.cuts:
        size = len(feeds) * sum(first[name].nbytes for name in cut.values)
        if held + size <= most:
            cuts.append(cut)
            held += size
    names = {name for cut in cuts for name in cut.values}
    if not names:
        return (), feeds
    every = zip(feeds, chain([first], results), strict=True)
    return tuple(cuts), [{**feed, **{name: found[name] for name in names}} for feed, found in every]


def noise_of(
    desk: Desk, groups: Collection[int], measure: OutputNoise, feeds: list[Feed], begin: Cut | None = None
) -> np.ndarray:
    """float64[feeds]: noise over signal power with these groups lowered, the mean over outputs."""
    results = run_every(desk.set(groups, begin=begin), feeds, desk.board.scales(desk.board.amax))
    return np.array([measure.shares(index, found).mean() for index, found in enumerate(results)])
