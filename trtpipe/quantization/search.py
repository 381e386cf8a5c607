"""Which nodes are worth 8 bits: found by building engines and comparing what they cost.

A handful of builds: everything in 16 bits; everything that may in 8 bits, in each style; the cheapest of these without
the nodes of one pattern (residual additions, pools, products of attention, ...), pattern by pattern; then without the
nodes that cost more in 8 bits than in 16, until nothing changes. Nodes that share a kernel are taken out together.

One graph serves all targets, so each placement is built for each of them, and what counts is its cost relative to 16
bits, the mean over the targets. The cheapest wins if it saves enough and costs none of them more than 16 bits, so the
answer is never worse than 16 bits by this measure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from trtpipe.artifact import Record
from trtpipe.engine.report import EngineReport
from trtpipe.quantization.cost import costs_by_node, engine_cost

#: Ways to write the same 8-bit arithmetic into a graph: each weight with a scale for each channel; or convolutions with
#: one scale for their weight, and the channels' own behind them.
SCALES_INSIDE, SCALES_BEHIND = "scales in the weights", "scales behind convolutions"
STYLES = (SCALES_INSIDE, SCALES_BEHIND)
#: A node on its own is taken in only if 8 bits cost less than this share of 16: between nodes in 16 bits it needs
#: kernels of its own that quantize, which only a build with just those nodes shows.
_SHARES = (1.0, 0.75, 0.6)
_ROUNDS = 3
#: 8 bits cost accuracy, and the estimate is rough: they must save at least this share of the cost of 16 bits.
LEAST_GAIN = 0.05


@dataclass(frozen=True)
class Placement:
    """Which nodes compute in 8 bits, and how that is written."""

    nodes: frozenset[str]
    style: str = SCALES_INSIDE


_HIGH = Placement(frozenset())


class Trial(Record):
    """One engine that was built for comparison.

    Attributes:
        target: the GPU it was built for.
        style: how 8 bits were written into the graph; empty where there are none.
        nodes: how many nodes compute in 8 bits.
        kernels: of the engine.
        activation_bytes: written and read by all kernels.
        weight_bytes: read by all kernels.
        cost: the estimate that decided, in bytes (``trtpipe.quantization.cost``).
    """

    target: str = ""
    style: str
    nodes: int
    kernels: int
    activation_bytes: int
    weight_bytes: int
    cost: float


#: Target -> what is in the engine built for it.
Reports: TypeAlias = Mapping[str, EngineReport]
#: Builds a placement's engines and says what is in them: the very same reports for the same graph, ``None`` where one
#: cannot be built.
Build: TypeAlias = Callable[[Placement], "Reports | None"]


def search(nodes: Mapping[str, str], build: Build) -> tuple[Placement | None, tuple[Trial, ...]]:
    """The cheapest placement and every trial made; ``None`` if no engine could be built.

    Args:
        nodes: those that may compute in 8 bits -> the pattern each belongs to.
        build: called with a few placements, never twice with the same.
    """
    found = _Search(build)
    found.attempt(_HIGH)
    for style in STYLES if nodes else ():
        found.attempt(Placement(frozenset(nodes), style))
    if _HIGH in found.tried and found.lowered:
        for pattern in sorted(set(nodes.values())):
            whole = found.cheapest
            rest = frozenset(node for node in whole.nodes if nodes[node] != pattern)
            if rest:
                found.attempt(Placement(rest, whole.style))
        whole = found.cheapest
        for share in _SHARES:
            found.attempt(found.fewer(whole, share))
        for _ in range(_ROUNDS):
            if not found.attempt(found.fewer(found.cheapest, 1.0)):
                break
    return found.best, tuple(found.trials())


class _Search:
    """What was built so far."""

    def __init__(self, build: Build) -> None:
        self.tried: dict[Placement, Reports] = {}
        self._build = build

    @property
    def lowered(self) -> list[Placement]:
        """Those with nodes in 8 bits."""
        return [placement for placement in self.tried if placement.nodes]

    @property
    def cheapest(self) -> Placement:
        """Of those with nodes in 8 bits."""
        return min(self.lowered, key=self._rank)

    @property
    def best(self) -> Placement | None:
        """The cheapest of all that are worth their accuracy."""
        if _HIGH not in self.tried:
            return min(self.tried, key=self._rank, default=None)
        worth = [
            placement
            for placement in self.lowered
            if self._cost(placement) <= 1 - LEAST_GAIN and max(self._costs(placement)) <= 1
        ]
        return min(worth, key=self._rank, default=_HIGH)

    def attempt(self, placement: Placement) -> bool:
        """Whether its engines are new, and could be built: the same graph again is no other placement."""
        reports = None if placement in self.tried or (not placement.nodes and self.tried) else self._build(placement)
        if reports is None or any(reports is known for known in self.tried.values()):
            return False
        self.tried[placement] = reports
        return True

    def fewer(self, placement: Placement, share: float) -> Placement:
        """The nodes whose kernels cost less than ``share`` in 8 bits, taken by groups whose products share a kernel."""
        nodes, before, after = placement.nodes, self.tried[_HIGH], self.tried[placement]
        groups: dict[str, set[str]] = {node: {node} for node in sorted(nodes)}
        for report in (*before.values(), *after.values()):
            for layer in report.kernels:
                together = [node for node in layer.nodes if node in groups and layer.is_product]
                merged: set[str] = set().union(*(groups[node] for node in together))
                groups |= dict.fromkeys(merged, merged)
        high, low = _node_costs(before.values(), nodes), _node_costs(after.values(), nodes)
        kept = (node for node, group in groups.items() if _sum(low, group) < share * _sum(high, group))
        return Placement(frozenset(kept), placement.style)

    def trials(self) -> Iterable[Trial]:
        """One an engine."""
        for placement, reports in self.tried.items():
            for target, report in reports.items():
                yield _trial(placement, target, report)

    def _rank(self, placement: Placement) -> tuple[float, int]:
        return self._cost(placement), len(placement.nodes)

    def _cost(self, placement: Placement) -> float:
        costs = self._costs(placement)
        return sum(costs) / len(costs)

    def _costs(self, placement: Placement) -> list[float]:
        """For each target, relative to 16 bits; in bytes where these could not be built."""
        costs = {target: engine_cost(report) for target, report in self.tried[placement].items()}
        if _HIGH not in self.tried:
            return list(costs.values())
        high = {target: engine_cost(report) for target, report in self.tried[_HIGH].items()}
        return [cost / high[target] if high[target] else 1.0 for target, cost in costs.items()]


def _node_costs(reports: Iterable[EngineReport], nodes: frozenset[str]) -> dict[str, float]:
    """The cost of the kernels around each node, the sum over the targets."""
    costs: dict[str, float] = {}
    for report in reports:
        for node, cost in costs_by_node(report, nodes).items():
            costs[node] = costs.get(node, 0.0) + cost
    return costs


def _sum(costs: Mapping[str, float], group: set[str]) -> float:
    return sum(costs.get(node, 0.0) for node in group)


def _trial(placement: Placement, target: str, report: EngineReport) -> Trial:
    return Trial(
        target=target,
        style=placement.style if placement.nodes else "",
        nodes=len(placement.nodes),
        kernels=len(report.kernels),
        activation_bytes=report.bytes_written + report.bytes_read,
        weight_bytes=report.constant_bytes,
        cost=engine_cost(report),
    )
