"""Sentences of Python's own documentation, as the standard library ships it, and pairs that are more or less alike.

A pair is a sentence and the same with some words exchanged for words of another sentence, and with others left out: the
two are as alike as the share of words that they have in common. All of it is seeded.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Token numbers: 0 fills up, 1 is any word that is not among the most frequent.
PADDING, UNKNOWN, VOCABULARY = 0, 1, 2000
SHORTEST, LONGEST, BATCH = 4, 40, 4
#: Every fifth sentence is a test sentence.
PARTS = {"train": 0, "test": 1}


@cache
def sentences(part: str) -> tuple[tuple[str, ...], ...]:
    """The words of each sentence, in lower case."""
    text = " ".join(topics[name] for name in sorted(topics))
    found = (tuple(re.findall(r"[a-z]+", each.lower())) for each in re.split(r"[.:;]\s", text))
    unique = list(dict.fromkeys(each for each in found if SHORTEST <= len(each) <= LONGEST))
    return tuple(each for index, each in enumerate(unique) if (index % 5 == 0) == (part == "test"))


@cache
def vocabulary() -> dict[str, int]:
    """The numbers of the most frequent words of the training sentences."""
    counts = Counter(word for sentence in sentences("train") for word in sentence)
    words = sorted(counts, key=lambda word: (-counts[word], word))[: VOCABULARY - 2]
    return {word: number for number, word in enumerate(words, UNKNOWN + 1)}


def tokens(words: tuple[str, ...]) -> np.ndarray:
    """Token numbers of a sentence."""
    return np.array([vocabulary().get(word, UNKNOWN) for word in words], np.int64)


def feed_of(rows: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Sentences as the model takes them: filled up to the longest, and a mask of what counts."""
    shape = (len(rows), max(map(len, rows)))
    ids, mask = np.full(shape, PADDING, np.int64), np.zeros(shape, np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    return {"ids": ids, "mask": mask}


def pairs(part: str, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Two sentences, and the share of words that they have in common (of multisets, by Jaccard's index)."""
    random = np.random.default_rng(PARTS[part])
    known = sentences(part)
    for _ in range(count):
        one, other = (known[index] for index in random.integers(0, len(known), 2))
        kept = random.random()
        mixed = [word if random.random() < kept else other[index % len(other)] for index, word in enumerate(one)]
        mixed = mixed[: int(np.ceil(len(mixed) * random.uniform(0.6, 1)))]
        a, b = Counter(one), Counter(mixed)
        yield tokens(one), tokens(tuple(mixed)), (a & b).total() / (a | b).total()


def _batches(part: str, count: int) -> Iterator[dict[str, np.ndarray]]:
    chosen = [one for one, _, _ in pairs(part, count * BATCH)]
    return (feed_of(chosen[start : start + BATCH]) for start in range(0, len(chosen), BATCH))


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Training sentences, four a feed, filled up to the longest of them."""
    return _batches("train", 100)


def held_out() -> Iterator[dict[str, np.ndarray]]:
    """Test sentences likewise."""
    return _batches("test", 16)


def spearman(run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> dict[str, float]:
    """Whether pairs that are more alike get embeddings that are: Spearman's rank correlation over 300 test pairs."""
    found, alike = [], []
    for one, other, value in pairs("test", 300):
        a, b = run(feed_of([one, other]))["embedding"]
        found.append(float(a @ b))
        alike.append(value)
    return {"spearman": float(np.corrcoef(_ranks(found), _ranks(alike))[0, 1]), "n": len(found)}


def _ranks(values: list[float]) -> np.ndarray:
    """Places in sorted order; equal values share the middle one."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts + 1) / 2)[place])
