"""Find what to add to biases so that, on average, the quantised model computes what the float32 model does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from trtpipe.calibration.search import surely_less

#: Means of every node's channels, float64[feeds, channels]; NaN for feeds that did not reach the node.
Means: TypeAlias = Mapping[str, np.ndarray]
#: Runs the quantised model with these corrections: noise over signal of every feed in dB, and means.
CorrectedRun: TypeAlias = Callable[[Mapping[str, np.ndarray]], tuple[np.ndarray, Means]]

#: Rounds: after the n-th, nodes up to depth n have the right mean; deeper ones come ever nearer.
ROUNDS = 4
#: Feeds that are too few to find and to judge corrections.
_FEWEST = 8
#: dB that corrections must gain on feeds they were not found on.
_GAIN = 0.2


@dataclass(frozen=True, eq=False)
class Correction:
    """What was found.

    Attributes:
        biases: node -> float32[channels] to add; empty if nothing surely helps.
        gain: dB by which the best of the corrections lessened the noise on feeds they were not found on.
    """

    biases: dict[str, np.ndarray]
    gain: float


def find_corrections(run: CorrectedRun, exact: Means) -> Correction | None:
    """Corrections that surely lessen the noise on feeds they were not found on; ``None`` if feeds are too few.

    Every round takes out of all nodes at once the mean error that the corrections so far have left. A node's error
    comes from its own rounding and from what nodes before it pass on; as the first are right after one round, the
    second after two, this ends where correcting one after the other does, at a fraction of the runs.

    Half of the feeds find the means, the others judge. An error is only taken out as far as it is larger than what
    the feeds differ by: ``e * max(0, 1 - var(e) / (n e**2))``, the positive part of James and Stein's estimator.
    """
    feeds = next(iter(exact.values())).shape[0] if exact else 0
    if feeds < _FEWEST:
        return None
    held = np.arange(feeds) % 2 == 1
    biases = {name: np.zeros(means.shape[1]) for name, means in exact.items()}
    best: dict[str, np.ndarray] = {}
    first, least = np.zeros(0), np.full(int(held.sum()), np.inf)
    for round_ in range(ROUNDS + 1):
        noise, means = run({name: bias.astype(np.float32) for name, bias in biases.items()})
        if round_ == 0:
            first = noise[held]
        elif noise[held].mean() < least.mean():
            best, least = {name: bias.astype(np.float32) for name, bias in biases.items()}, noise[held]
        for name, expected in exact.items():
            biases[name] = biases[name] - _mean_error((means[name] - expected)[~held])
    return Correction(best if surely_less(least, first, _GAIN) else {}, float((first - least).mean()))


def _mean_error(errors: np.ndarray) -> np.ndarray:
    """float64[channels]: the mean over feeds, drawn towards 0 where it may be chance."""
    errors = errors[~np.isnan(errors).any(axis=1)]
    count = errors.shape[0]
    if count < 2:
        return np.zeros(errors.shape[1])
    mean = errors.mean(axis=0)
    chance = errors.var(axis=0, ddof=1) / count
    share = 1 - chance / np.maximum(mean**2, np.finfo(np.float64).tiny)
    drawn: np.ndarray = mean * np.clip(share, 0, 1)
    return drawn
