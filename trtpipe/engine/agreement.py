"""Whether an engine computes in the lowered precision: the lowering record against the builder's report."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from trtpipe.config.formats import FORMATS, HALF_FORMATS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.engine.report import EngineLayer, EngineReport
    from trtpipe.passes.decisions import NodeDecision

_QUANTIZED = frozenset(word for form in FORMATS if form.quantized for word in form.engine)
#: A format, as the lowering record names it -> the engine types that satisfy it. A kernel that also reads or writes
#: quantized values satisfies 16 bits, whatever it holds in registers.
SATISFIED_BY: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        **{form.label: frozenset(form.engine) for form in FORMATS if form.quantized},
        **{form.label: _QUANTIZED.union(form.engine) for form in HALF_FORMATS},
    }
)
#: Generated kernels are named after their operations: ``__myl_CastMulCast_myl0_3``.
_CAST = "Cast"
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: So many nodes are named in a sentence.
_NAMED = 12


@dataclass(frozen=True)
class Agreement:
    """In what the nodes lowered to one precision compute.

    Attributes:
        precision: as in the lowering record.
        found: nodes that are in some layer of the engine; folded ones are in none.
        raised: those that are only in layers of wider types.
    """

    precision: str
    found: int
    raised: tuple[str, ...]

    @property
    def note(self) -> str:
        """A sentence with the names of the nodes."""
        more = len(self.raised) - _NAMED
        names = ", ".join(self.raised[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        return (
            f"the builder keeps {len(self.raised)} of {self.found} {self.precision} nodes in higher precision: {names}"
        )


def compare(decisions: Sequence[NodeDecision], report: EngineReport) -> tuple[Agreement, ...]:
    """One agreement for every lowered precision that can be judged.

    A node is judged by the Conv and GEMM layers it is in, or else by all layers it is in. A generated kernel with casts
    inside does not show its type and counts as correct. If no layer names the nodes of a precision, all that is checked
    is whether any kernel uses its type, and only if Conv, Gemm or MatMul nodes were lowered to it.
    """
    holders: dict[str, list[EngineLayer]] = {}
    for layer in report.kernels:
        for node in layer.nodes:
            holders.setdefault(node, []).append(layer)
    found = []
    for precision, types in SATISFIED_BY.items():
        wanted = [each for each in decisions if each.precision == precision]
        nodes = [each.node for each in wanted if each.node in holders]
        if nodes:
            raised = tuple(
                node for node in nodes if not any(_satisfies(layer, types) for layer in _judged(holders[node]))
            )
            found.append(Agreement(precision, len(nodes), raised))
        elif any(each.op in _WEIGHTED for each in wanted) and not any(layer.types & types for layer in report.kernels):
            found.append(Agreement(precision, len(wanted), tuple(each.node for each in wanted)))
    return tuple(found)


def _judged(layers: list[EngineLayer]) -> list[EngineLayer]:
    return [layer for layer in layers if layer.is_conv_gemm] or layers


def _satisfies(layer: EngineLayer, types: frozenset[str]) -> bool:
    return bool(layer.types & types) or (not layer.is_conv_gemm and _CAST in layer.name)
