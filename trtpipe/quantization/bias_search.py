"""Find what to add to biases, from what had to be added sample by sample."""

from __future__ import annotations

import numpy as np

#: Feeds that are too few to find corrections on one half of them, and to judge them on the other.
FEWEST = 8


def typical_correction(corrections: np.ndarray) -> np.ndarray:
    """What to add for all feeds, drawn towards 0 as far as it may be chance.

    ``c * max(0, 1 - var(c) / (n c**2))`` for the mean ``c`` over n feeds: the positive part of the estimator of James
    and Stein (1961), with the target 0.

    Args:
        corrections: float64[feeds, channels], what every feed wanted; NaN for feeds that did not reach the node.

    Returns:
        float32[channels]; 0 from fewer than two feeds.
    """
    corrections = corrections[~np.isnan(corrections).any(axis=1)]
    count = corrections.shape[0]
    if count < 2:
        return np.zeros(corrections.shape[1], np.float32)
    mean = corrections.mean(axis=0)
    chance = corrections.var(axis=0, ddof=1) / count
    share = 1 - chance / np.maximum(mean**2, np.finfo(np.float64).tiny)
    drawn: np.ndarray = (mean * np.clip(share, 0, 1)).astype(np.float32)
    return drawn
