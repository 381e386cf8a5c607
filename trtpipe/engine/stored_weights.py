"""Which weights of a graph lie in a plan as they are, byte by byte: two plans can then be told to hold the same ones.

Builders keep the constants of Conv and GEMM layers in the type that the graph gives them, plain or with the channels
last and padded with zeros. What is folded, merged or packed is not found, which says nothing about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

#: Name -> value.
Constants: TypeAlias = "dict[str, np.ndarray[Any, Any]]"

#: Bytes of a word; words stand at multiples of the other.
_WORD, _ALIGNED = 8, 4
#: Words of a plan that are looked at in one go.
_CHUNK = 1 << 20
#: A shorter constant may be there by chance.
_LEAST_BYTES = 16
#: Channels are padded to multiples of these.
_PADDED = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class _Candidate:
    """A constant in one layout; ``offset`` is where in its bytes the word stands that it is searched by."""

    name: str
    array: np.ndarray[Any, Any]
    offset: int

    def stands_at(self, plan: np.ndarray[Any, np.dtype[np.uint8]], position: int) -> bool:
        start, content = position - self.offset, _bytes(self.array)
        return start >= 0 and np.array_equal(plan[start : start + len(content)], content)


def constants_of(model: Path) -> Constants:
    """Name -> value of every constant of a graph, those of bodies included."""
    from trtpipe.preflight.onnx_io import load_model

    graph = load_model(model).graph
    found: Constants = {}
    for each in (graph, *graph.subgraphs()):
        for name, value in each.initializers.items():
            if value.const_value is not None:
                found[str(name)] = value.const_value.numpy()
    return found


def stored_weights(plan: Path, constants: Constants) -> frozenset[str]:
    """Those of ``constants`` whose bytes lie in a plan.

    Args:
        constants: name -> value. Those of less than 16 bytes, and those of one value, are left out.
    """
    content: np.ndarray[Any, np.dtype[np.uint8]] = np.memmap(plan, np.uint8, "r")
    candidates: dict[int, list[_Candidate]] = {}
    for word, candidate in _candidates(constants.items()):
        candidates.setdefault(word, []).append(candidate)
    found: set[str] = set()
    for position, word in _places(content, np.array(sorted(candidates), np.uint64)):
        for candidate in candidates[word]:
            if candidate.name not in found and candidate.stands_at(content, position):
                found.add(candidate.name)
    return frozenset(found)


def _places(content: np.ndarray[Any, np.dtype[np.uint8]], wanted: np.ndarray[Any, Any]) -> Iterator[tuple[int, int]]:
    """Where the words of ``wanted``, which are sorted, stand in a plan: position, word."""
    for shift in range(0, _WORD if wanted.size else 0, _ALIGNED):
        words = content[shift : shift + (content.size - shift) // _WORD * _WORD].view(np.uint64)
        for begin in range(0, words.size, _CHUNK):
            chunk = words[begin : begin + _CHUNK]
            places = np.minimum(np.searchsorted(wanted, chunk), wanted.size - 1)
            for hit in np.flatnonzero(wanted[places] == chunk):
                yield shift + (begin + int(hit)) * _WORD, int(chunk[hit])


def _candidates(constants: Iterable[tuple[str, np.ndarray[Any, Any]]]) -> Iterator[tuple[int, _Candidate]]:
    for name, value in constants:
        for array in _layouts(value):
            content = _bytes(array)
            if content.size < _LEAST_BYTES:
                continue
            words = content[: content.size // _WORD * _WORD].view(np.uint64)
            if differing := np.flatnonzero(words != words[0])[:1].tolist():
                yield int(words[differing[0]]), _Candidate(name, array, differing[0] * _WORD)


def _layouts(value: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    yield value
    if value.ndim == 2:
        yield value.T
    if value.ndim > 2:
        last = np.moveaxis(value, 1, -1)
        yield last
        for missing in sorted({-last.shape[-1] % multiple for multiple in _PADDED} - {0}):
            yield np.pad(last, [(0, 0)] * (last.ndim - 1) + [(0, missing)])


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
