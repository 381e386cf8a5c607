"""One record for a graph that was lowered twice: to 8 bits, and around that to 16."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.config.formats import FP32
from trtpipe.passes.decisions import NodeDecision

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def merged(
    eight: Sequence[NodeDecision], half: Sequence[NodeDecision], nodes: Collection[str]
) -> tuple[NodeDecision, ...]:
    """What became of each of ``nodes``: where 8 bits were refused, both reasons.

    Args:
        eight: the decisions about 8 bits.
        half: the decisions about 16 bits, taken after them, also about nodes that are not among ``nodes``.
    """
    by_name = {decision.node: decision for decision in eight}
    return tuple(_both(by_name.get(decision.node), decision) for decision in half if decision.node in nodes)


def _both(eight: NodeDecision | None, half: NodeDecision) -> NodeDecision:
    if eight is None:
        return half
    if eight.precision != FP32.label:
        return eight.model_copy(update={"reason": f"{eight.reason}; its results are {half.precision}"})
    if eight.macs is None:  # no candidate for 8 bits
        return half
    return half.model_copy(update={"reason": f"{half.reason}; not in 8 bits: {eight.reason}", "macs": eight.macs})
