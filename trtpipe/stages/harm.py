"""How much noise groups of a switched graph make at its outputs: each alone, or several together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.progress import track
from trtpipe.stages.exact import run_known

if TYPE_CHECKING:
    from collections.abc import Collection

    from trtpipe.accuracy.noise import OutputNoise
    from trtpipe.backends.base import Feed
    from trtpipe.passes.cuts import Cut
    from trtpipe.progress import Progress
    from trtpipe.stages.switching import Switchboard

#: Bytes of values that are held at most.
_BYTES = 256 << 20


def noise_alone(
    board: Switchboard, measure: OutputNoise, feeds: list[Feed], progress: Progress, phase: str
) -> list[float]:
    """The noise of each group by itself; for groups behind a cut only what comes behind it is run."""
    cuts, stored = _stored(board, feeds)
    count = len(board.groups)
    found: list[float] = []
    for index in track(progress, phase, range(count), count):
        cut = next((cut for cut in reversed(cuts) if cut.position < board.groups[index].first), None)
        found.append(float(noise_of(board, (index,), measure, feeds if cut is None else stored, cut).mean()))
    return found


def _stored(board: Switchboard, feeds: list[Feed]) -> tuple[tuple[Cut, ...], list[Feed]]:
    """The cuts whose values fit into memory, and the feeds with these values in float32."""
    values = tuple(dict.fromkeys(name for cut in board.cuts for name in cut.values))
    if not values:
        return (), feeds
    scales = board.scales(board.amax)
    with board.open((), show=values) as runner:
        first = run_known(runner, {**feeds[0], **scales})
        cuts, held = [], 0
        for cut in board.cuts:
            held += len(feeds) * sum(first[name].nbytes for name in cut.values)
            if held <= _BYTES:
                cuts.append(cut)
        names = {name for cut in cuts for name in cut.values}
        stored = []
        for feed in feeds if names else ():
            found = run_known(runner, {**feed, **scales})
            stored.append({**feed, **{name: found[name] for name in names}})
    return tuple(cuts), stored


def noise_of(
    board: Switchboard, groups: Collection[int], measure: OutputNoise, feeds: list[Feed], begin: Cut | None = None
) -> np.ndarray:
    """float64[feeds]: noise over signal power with these groups lowered, the mean over outputs."""
    scales = board.scales(board.amax)
    with board.open(groups, begin=begin) as runner:
        return np.array(
            [measure.shares(index, run_known(runner, {**feed, **scales})).mean() for index, feed in enumerate(feeds)]
        )
