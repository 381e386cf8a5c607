"""A few feeds, evenly spread over a data set of any length, in bounded memory."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtpipe.artifact import Feed
    from trtpipe.data.sample import Dataset


def spread_feeds(dataset: Dataset, most: int, most_bytes: int) -> list[Feed]:
    """Every n-th feed of ``dataset``, for the smallest power of two n that keeps within both limits.

    Always at least one feed, whatever its size. Which feeds come back depends on the data set alone.

    Args:
        most: number of feeds.
        most_bytes: of all their arrays together.
    """
    kept: list[Feed] = []
    stride = 1
    with closing(iter(dataset)) as samples:
        for index, sample in enumerate(samples):
            if index % stride:
                continue
            kept.append(sample.feed)
            while len(kept) > 1 and (len(kept) > most or _bytes(kept) > most_bytes):
                kept = kept[::2]
                stride *= 2
    return kept


def _bytes(feeds: list[Feed]) -> int:
    return sum(value.nbytes for feed in feeds for value in feed.values())
