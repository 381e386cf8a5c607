"""Characters of Python's own documentation, as the standard library ships it, and greedy decoding with a cache."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Feed = dict[str, np.ndarray]
    Run = Callable[[Feed], Feed]

#: What the model knows; any other character is a blank.
CHARACTERS = "\n abcdefghijklmnopqrstuvwxyz0123456789.,:;()[]{}'\"`*+-/=<>_#@!|&%"
LAYERS, HEADS, HEAD = 2, 4, 24
#: Characters in a prompt with what follows it, and how many follow.
LONGEST, NEW = 128, 48
EXPECTED = Path("build/decoder/expected.npz")


@cache
def text() -> np.ndarray:
    """Numbers of the characters of all of it."""
    whole = re.sub(r" +", " ", " ".join(topics[name] for name in sorted(topics)).lower())
    return encoded(whole)


def encoded(words: str) -> np.ndarray:
    """Numbers of characters, int64."""
    numbers = {character: number for number, character in enumerate(CHARACTERS)}
    return np.array([numbers.get(character, numbers[" "]) for character in words], np.int64)


def decoded(numbers: np.ndarray) -> str:
    """The characters of numbers."""
    return "".join(CHARACTERS[number] for number in numbers)


def prompts(count: int, seed: int) -> Iterator[np.ndarray]:
    """Pieces of it, 16 to 64 characters."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        start, length = random.integers(0, len(text()) - 64), random.integers(16, 65)
        yield text()[start : start + length]


def empty_cache() -> Feed:
    """Keys and values of nothing."""
    shape = (1, HEADS, 0, HEAD)
    return {f"past.{layer}.{part}": np.zeros(shape, np.float32) for layer in range(LAYERS) for part in (0, 1)}


def steps(run: Run, prompt: np.ndarray) -> Iterator[tuple[Feed, int]]:
    """Greedy decoding: the prompt at once, then one character after the other. Each feed, and what was chosen."""
    feed = {"ids": prompt[None], **empty_cache()}
    for _ in range(NEW):
        outputs = run(feed)
        chosen = int(outputs["logits"][0, -1].argmax())
        yield feed, chosen
        feed = {"ids": np.array([[chosen]]), **{name: outputs[f"{name}_out"] for name in feed if name != "ids"}}


def held_out() -> Iterator[Feed]:
    """Feeds of decoding as PyTorch did it: prompts with an empty cache, and single characters with a fuller one."""
    with np.load(EXPECTED) as file:
        for index in range(int(file["feeds"])):
            yield {name: file[f"{index}/{name}"] for name in ("ids", *empty_cache())}


def equal_tokens(run: Run) -> dict[str, object]:
    """The share of prompts after which greedy decoding gives exactly the characters that PyTorch gives."""
    with np.load(EXPECTED) as file:
        wanted = file["tokens"]
    found = [[token for _, token in steps(run, prompt)] for prompt in prompts(len(wanted), seed=1)]
    same = [float(list(row) == mine) for row, mine in zip(wanted, found, strict=True)]
    return {"equal": float(np.mean(same)), "n": len(same), "per_sample": same}
