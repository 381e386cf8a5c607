"""Which nodes are worth 8 bits: found by building engines and comparing what they cost.

A handful of builds: everything in 16 bits; everything that may in 8 bits, in each style; the cheapest of these without
the nodes of one pattern (residual additions, pools, ...), pattern by pattern; then without the nodes that cost more in
8 bits than in 16, until nothing changes. Nodes that share a kernel are taken out together. The cheapest engine wins if
it saves enough, so the answer is never worse than 16 bits by this measure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from trtpipe.artifact import Record
from trtpipe.engine.cost import costs_by_node, engine_cost
from trtpipe.engine.report import EngineReport

#: Ways to write the same 8-bit arithmetic into a graph: each weight with a scale for each channel; or convolutions with
#: one scale for their weight, and the channels' own behind them.
SCALES_INSIDE, SCALES_BEHIND = "scales in the weights", "scales behind convolutions"
STYLES = (SCALES_INSIDE, SCALES_BEHIND)
#: A node on its own is taken in only if 8 bits cost less than this share of 16: between nodes in 16 bits it needs
#: kernels of its own that quantise, which only a build with just those nodes shows.
_SHARES = (1.0, 0.75, 0.6)
_ROUNDS = 3
#: 8 bits cost accuracy, and the estimate is rough: they must save at least this share of the cost of 16 bits.
LEAST_GAIN = 0.05


@dataclass(frozen=True)
class Placement:
    """Which nodes compute in 8 bits, and how that is written."""

    nodes: frozenset[str]
    style: str = SCALES_INSIDE


class Trial(Record):
    """One engine that was built for comparison.

    Attributes:
        style: how 8 bits were written into the graph; empty where there are none.
        nodes: how many nodes compute in 8 bits.
        kernels: of the engine.
        activation_bytes: written and read by all kernels.
        weight_bytes: read by all kernels.
        cost: the estimate that decided, in bytes (``trtpipe.engine.cost``).
    """

    style: str
    nodes: int
    kernels: int
    activation_bytes: int
    weight_bytes: int
    cost: float


#: Builds an engine for a placement and says what is in it: the very same report for the same graph, ``None`` where it
#: cannot be built.
Build: TypeAlias = Callable[[Placement], "EngineReport | None"]


def search(nodes: Mapping[str, str], build: Build) -> tuple[Placement | None, tuple[Trial, ...]]:
    """The cheapest placement and every trial made; ``None`` if no engine could be built.

    Args:
        nodes: those that may compute in 8 bits -> the pattern each belongs to.
        build: called with a few placements, never twice with the same.
    """
    tried: dict[Placement, EngineReport] = {}

    def attempt(placement: Placement) -> EngineReport | None:
        """The report of an engine that is new and can be built; the same graph again is no other placement."""
        report = None if placement in tried or (not placement.nodes and tried) else build(placement)
        if report is None or any(report is known for known in tried.values()):
            return None
        tried[placement] = report
        return report

    high = attempt(Placement(frozenset()))
    for style in STYLES if nodes else ():
        attempt(Placement(frozenset(nodes), style))
    lowered = [placement for placement in tried if placement.nodes]
    if high is not None and lowered:
        for pattern in sorted(set(nodes.values())):
            whole = _cheapest(tried, [placement for placement in tried if placement.nodes])
            rest = frozenset(node for node in whole.nodes if nodes[node] != pattern)
            if rest:
                attempt(Placement(rest, whole.style))
        whole = _cheapest(tried, [placement for placement in tried if placement.nodes])
        for share in _SHARES:
            attempt(_fewer(whole, high, tried[whole], share))
        for _ in range(_ROUNDS):
            part = _cheapest(tried, [placement for placement in tried if placement.nodes])
            if attempt(_fewer(part, high, tried[part], 1.0)) is None:
                break
    costs = {placement: engine_cost(report) for placement, report in tried.items()}
    best = min(costs, key=lambda placement: (costs[placement], len(placement.nodes)), default=None)
    if high is not None and best is not None and costs[best] > (1 - LEAST_GAIN) * engine_cost(high):
        best = Placement(frozenset())
    return best, tuple(_trial(placement, report, costs[placement]) for placement, report in tried.items())


def _cheapest(tried: Mapping[Placement, EngineReport], among: Sequence[Placement]) -> Placement:
    return min(among, key=lambda placement: (engine_cost(tried[placement]), len(placement.nodes)))


def _fewer(placement: Placement, high: EngineReport, lowered: EngineReport, share: float) -> Placement:
    """The nodes whose kernels cost less than ``share`` in 8 bits, taken by groups whose products share a kernel."""
    nodes = placement.nodes
    before, after = costs_by_node(high, nodes), costs_by_node(lowered, nodes)
    groups: dict[str, set[str]] = {node: {node} for node in sorted(nodes)}
    for layer in (*high.kernels, *lowered.kernels):
        together = [node for node in layer.nodes if node in groups and layer.is_product]
        merged: set[str] = set().union(*(groups[node] for node in together))
        groups |= dict.fromkeys(merged, merged)
    kept = (node for node, group in groups.items() if _sum(after, group) < share * _sum(before, group))
    return Placement(frozenset(kept), placement.style)


def _sum(costs: Mapping[str, float], group: set[str]) -> float:
    return sum(costs.get(node, 0.0) for node in group)


def _trial(placement: Placement, report: EngineReport, cost: float) -> Trial:
    return Trial(
        style=placement.style if placement.nodes else "",
        nodes=len(placement.nodes),
        kernels=len(report.kernels),
        activation_bytes=report.bytes_written + report.bytes_read,
        weight_bytes=report.constant_bytes,
        cost=cost,
    )
