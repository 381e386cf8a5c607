"""The order of a graph's nodes: every value is made before it is read."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def sorted_order(reads: Sequence[Collection[str]], makes: Sequence[Collection[str]]) -> list[int] | None:
    """Positions of nodes such that each stands behind those whose values it reads; ``None`` where they form a cycle.

    Of the nodes that may come next the first in the given order does, so that sorted nodes stay as they are (Kahn,
    "Topological sorting of large networks", 1962).

    Args:
        reads: of each node the names it reads, in its bodies too; what no node makes is taken as given.
        makes: of each node the names it makes.

    Example:
        >>> sorted_order([["h"], ["x"]], [["y"], ["h"]])
        [1, 0]
    """
    makers = {name: index for index, names in enumerate(makes) for name in names if name}
    readers: list[list[int]] = [[] for _ in reads]
    missing = [0] * len(reads)
    for index, names in enumerate(reads):
        for maker in {makers[name] for name in names if name in makers}:
            readers[maker].append(index)
            missing[index] += 1
    ready = [index for index, count in enumerate(missing) if not count]
    heapify(ready)
    order: list[int] = []
    while ready:
        index = heappop(ready)
        order.append(index)
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                heappush(ready, reader)
    return order if len(order) == len(reads) else None
