"""Whether an engine computes what was lowered: the record of the lowering against the builder's own report."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from trtpipe.config.formats import FORMATS, HALVES, is_quantized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.engine.report import EngineLayer, EngineReport
    from trtpipe.passes.decisions import NodeDecision

_QUANTIZED = frozenset(word for form in FORMATS if form.quantized for word in form.engine)
#: A precision of the lowering record -> the types of the engine that carry it out. A node lowered to 16 bits is well
#: served by a kernel that also reads or writes 8 bits, whatever it holds in registers.
SERVED_BY: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        form.label: frozenset(form.engine).union(
            *(each.engine for each in FORMATS if each.quantized and form in HALVES)
        )
        for form in reversed(FORMATS)
        if form.quantized or form in HALVES
    }
)
#: Generated kernels are named after what they do, in order: ``__myl_CastMulCast_myl0_3``.
_CAST = "Cast"
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Computed in float32 behind its pair whatever was asked for (TensorRT-RTX 1.7). It says nothing about the rest.
_NEVER_IN_8_BITS = frozenset({"ConvTranspose"})


@dataclass(frozen=True)
class Agreement:
    """How the nodes lowered to one precision fared.

    Attributes:
        precision: as the lowering record names it.
        found: nodes that are in some layer of the engine; folded ones are in none.
        raised: those that only layers of wider types hold.
        excused: how many of these no build would have kept, where other nodes are there to judge by.
    """

    precision: str
    found: int
    raised: tuple[str, ...]
    excused: int = 0

    @property
    def lost(self) -> bool:
        """Whether the engine is not what was lowered: more than half of the nodes that can be found were raised."""
        return 2 * (len(self.raised) - self.excused) > self.found - self.excused

    @property
    def note(self) -> str:
        """In words, with the names."""
        return (
            f"the builder raised {len(self.raised)} of {self.found} nodes lowered to {self.precision}: "
            f"{', '.join(self.raised)}"
        )


def compare(decisions: Sequence[NodeDecision], report: EngineReport) -> tuple[Agreement, ...]:
    """One agreement for every lowered precision that can be judged.

    A node is judged by the products it is in, or else by all layers it is in. A generated kernel that casts inside
    does not tell what it computes in; it counts as what was asked for. Of a precision whose nodes no layer names, only
    whether any kernel touches its type can be told; this is judged where convolutions or matrix products were lowered.
    """
    holders: dict[str, list[EngineLayer]] = {}
    for layer in report.kernels:
        for node in layer.nodes:
            holders.setdefault(node, []).append(layer)
    found = []
    for precision, types in SERVED_BY.items():
        wanted = [each for each in decisions if each.precision == precision]
        nodes = [each.node for each in wanted if each.node in holders]
        if nodes:
            raised = tuple(node for node in nodes if not any(_serves(layer, types) for layer in _judged(holders[node])))
            never = _NEVER_IN_8_BITS if is_quantized(precision) else frozenset()
            excused = [each.node for each in wanted if each.node in raised and each.op in never]
            found.append(Agreement(precision, len(nodes), raised, len(excused) if len(excused) < len(nodes) else 0))
        elif any(each.op in _WEIGHTED for each in wanted) and not any(layer.types & types for layer in report.kernels):
            found.append(Agreement(precision, len(wanted), tuple(each.node for each in wanted)))
    return tuple(found)


def _judged(layers: list[EngineLayer]) -> list[EngineLayer]:
    return [layer for layer in layers if layer.is_product] or layers


def _serves(layer: EngineLayer, types: frozenset[str]) -> bool:
    return bool(layer.types & types) or (not layer.is_product and _CAST in layer.name)
