"""What to tell about the decisions of a lowering: how much is in 8 bits, what holds it back, one node's record."""

from __future__ import annotations

import re
from collections import defaultdict
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from trtpipe.artifact import Record
from trtpipe.config.formats import is_quantized
from trtpipe.errors import InputError
from trtpipe.passes.node_names import pattern_of

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Least share of the multiply-accumulates to have in 8 bits.
LEAST_SHARE = 0.95
#: Why a node is kept in higher precision that no calibration sample reached, as in a branch that was never taken.
UNREACHED = "no calibration sample reached it"
#: How the reason begins why a node is kept in higher precision for the sake of the outputs.
SENSITIVE = "sensitive"
#: How the reason begins why a node is kept in float32 that TensorRT takes in nothing else.
FLOAT32_ALONE = "TensorRT takes it in float32 only"
#: How the reason begins why a node is kept in higher precision that the user's patterns keep.
KEPT = "kept by pattern"
#: What differs between two reasons of one kind: names of tensors and patterns.
_QUOTED = re.compile(r"'[^']*'")
_FOR_ACCURACY = "sensitive layers, kept for accuracy"
#: Nodes named in a sentence.
_NAMED = 8
#: Reasons named when much is kept in higher precision.
_REASONS = 3


class NodeDecision(Record):
    """What a lowering pass decided for one node, and by which rule.

    Attributes:
        node: the node's name, or its first output's where it has none.
        op: its operator.
        precision: what it computes in (``int8``, ``float16``, ``float32``, ...).
        reason: the rule that decided.
        macs: multiply-accumulates of a Conv, ConvTranspose, Gemm, MatMul or recurrent layer; ``None`` for others, and
            where unknown.
    """

    node: str
    op: str
    precision: str
    reason: str
    macs: int | None = None


class WorkShare(Record):
    """Multiply-accumulates of all Conv, ConvTranspose, Gemm, MatMul and recurrent nodes, and how many are in 8 bits.

    Counted at the opt shapes; unknown dimensions count as 1.

    Attributes:
        unreached: of nodes kept in higher precision because no calibration sample reached them.
    """

    total: int
    eight_bit: int
    unreached: int = 0

    @property
    def share(self) -> float:
        """From 0 to 1; 0 where there is nothing to compute."""
        return self.eight_bit / self.total if self.total else 0.0

    @property
    def share_reached(self) -> float:
        """The same of what calibration samples reached."""
        reached = self.total - self.unreached
        return self.eight_bit / reached if reached else 0.0


def work_share(decisions: Sequence[NodeDecision]) -> WorkShare:
    """Add up."""
    return WorkShare(
        total=sum(decision.macs or 0 for decision in decisions),
        eight_bit=sum(decision.macs or 0 for decision in decisions if is_quantized(decision.precision)),
        unreached=sum(decision.macs or 0 for decision in decisions if decision.reason == UNREACHED),
    )


def shortfall(decisions: Sequence[NodeDecision]) -> str | None:
    """A sentence that says what keeps more than 5 % of the work out of 8 bits; ``None`` if no more is."""
    work = work_share(decisions)
    if not work.total or work.share >= LEAST_SHARE:
        return None
    costs: dict[str, int] = defaultdict(int)
    for decision in decisions:
        if not is_quantized(decision.precision) and decision.macs:
            costs[_kind(decision.reason)] += decision.macs
    largest = sorted(costs.items(), key=lambda item: (-item[1], item[0]))[:_REASONS]
    named = "; ".join(f"{100 * macs / work.total:.1f} %: {reason}" for reason, macs in largest)
    return f"8-bit coverage: {100 * work.share:.1f} % of MACs; the rest: {named}"


def kept_for_accuracy(decisions: Sequence[NodeDecision], form: str, half: str) -> str | None:
    """A sentence that says what accuracy costs: coverage, and the nodes kept for it; ``None`` where there are none.

    Args:
        form, half: words for the quantized format and for what is kept.
    """
    kept = [each.node for each in decisions if _kind(each.reason) == _FOR_ACCURACY and not is_quantized(each.precision)]
    if not kept:
        return None
    more = f" and {len(kept) - _NAMED} more" if len(kept) > _NAMED else ""
    layers = "1 layer" if len(kept) == 1 else f"{len(kept)} layers"
    share = 100 * work_share(decisions).share
    return (
        f"{form} coverage {share:.1f} % of MACs: {layers} kept in {half} for accuracy: {', '.join(kept[:_NAMED])}{more}"
    )


def _kind(reason: str) -> str:
    """What reasons of one kind have in common."""
    if SENSITIVE in (reason.partition(":")[0], reason.partition("not quantized: ")[2].partition(":")[0]):
        return _FOR_ACCURACY
    return _QUOTED.sub("...", reason)


def explain(decisions: Sequence[NodeDecision], node: str) -> tuple[NodeDecision, ...]:
    """The decisions for a node, or for all that a shell pattern matches.

    Raises:
        InputError: there is no such node; the remedy names similar ones.
    """
    found = tuple(each for each in decisions if each.node == node) or tuple(
        each for each in decisions if fnmatchcase(each.node, node)
    )
    if found:
        return found
    names = [each.node for each in decisions]
    raise InputError(
        f"no node is called {node!r}", _similar(node, names) or "look at the names with: trtpipe inspect -v"
    )


def unmatched(patterns: Sequence[str], decisions: Sequence[NodeDecision]) -> list[str]:
    """A sentence for every ``--keep`` pattern that matches no node."""
    names = [each.node for each in decisions]
    return [
        f"--keep {pattern!r} matches no node" + (f"; {similar}" if (similar := _similar(pattern, names)) else "")
        for pattern in patterns
        if all(pattern_of(name, (pattern,)) is None for name in names)
    ]


def _similar(wanted: str, names: Sequence[str]) -> str:
    lowered = {name.lower(): name for name in names}
    close = get_close_matches(wanted.lower().strip("*"), lowered, n=3, cutoff=0.5)
    close = close or [name for name in lowered if wanted.lower().strip("*?") in name][:3]
    return f"similar names: {', '.join(lowered[name] for name in close)}" if close else ""
