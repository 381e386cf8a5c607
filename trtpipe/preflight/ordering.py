"""The order of a graph's nodes: every value is made before it is read."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Sequence


def sorted_order(
    reads: Sequence[Collection[str]], makes: Sequence[Collection[str]], around: Sequence[Container[str]] = ()
) -> list[int] | None:
    """Positions of nodes such that each stands behind those whose values it reads; ``None`` where they form a cycle.

    Nodes that are in order stay so. Else, of the nodes that may come next the first in the given order does (Kahn,
    "Topological sorting of large networks", 1962).

    Args:
        reads: of each node the names it reads, in its bodies too; what no node makes is taken as given.
        makes: of each node the names it makes.
        around: names of the graphs around this one. Until a node makes such a name it means what it means there.

    Example:
        >>> sorted_order([["h"], ["x"]], [["y"], ["h"]])
        [1, 0]
    """
    makers = {name: index for index, names in enumerate(makes) for name in names if name}
    made: set[str] = set()
    for read, names in zip(reads, makes, strict=True):
        if any(name in makers and name not in made and not any(name in each for each in around) for name in read):
            break
        made.update(names)
    else:
        return list(range(len(reads)))
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
