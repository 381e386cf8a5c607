"""Whether an engine computes in the lowered precision: the lowering record against the builder's report."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING

from trtpipe.config.formats import FORMATS, FP32, HALF_FORMATS
from trtpipe.passes.operators import PURE_MOVES, WEIGHTED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor
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
#: Of values that were rounded to 16 bits these give values of 16 bits: nothing is lost by computing them so.
_KEEP_ROUNDING = PURE_MOVES | {"Cast", "Concat", "MaxPool", "GlobalMaxPool", "Pad", "Relu", "Abs", "Neg", "Max", "Min"}
_FLOATS = frozenset(word for form in FORMATS if form.kind == "float" for word in form.engine)
_HALF = frozenset(word for form in HALF_FORMATS for word in form.engine)
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
        share = f"{len(self.raised)} of {self.found} {self.precision} nodes"
        return f"the builder keeps {share} in higher precision: {named(self.raised)}"


def compare(decisions: Sequence[NodeDecision], report: EngineReport) -> tuple[Agreement, ...]:
    """One agreement for every lowered precision that can be judged.

    A node is judged by the Conv and GEMM layers it is in, or else by all layers it is in. A generated kernel with casts
    inside does not show its type and counts as correct. If no layer names the nodes of a precision, all that is checked
    is whether any kernel uses its type, and only if Conv, Gemm or MatMul nodes were lowered to it.
    """
    holders = _holders(report)
    found = []
    for precision, types in SATISFIED_BY.items():
        wanted = [each for each in decisions if each.precision == precision]
        nodes = [each.node for each in wanted if each.node in holders]
        if nodes:
            raised = tuple(
                node for node in nodes if not any(_satisfies(layer, types) for layer in _judged(holders[node]))
            )
            found.append(Agreement(precision, len(nodes), raised))
        elif any(each.op in WEIGHTED for each in wanted) and not any(layer.types & types for layer in report.kernels):
            found.append(Agreement(precision, len(wanted), tuple(each.node for each in wanted)))
    return tuple(found)


def narrowed(decisions: Sequence[NodeDecision], report: EngineReport) -> tuple[str, ...]:
    """The nodes left in float32 that an engine computes in 16 bits.

    TensorRT-RTX 1.7 does so with a single Conv between two casts. The layers are those that ``compare`` judges a node
    by. A weighted node in a Conv or GEMM layer has the type of its weights; any other is in 16 bits where a layer reads
    and writes nothing else, and casts nothing inside.
    """
    holders = _holders(report)
    return tuple(
        each.node
        for each in decisions
        if each.precision == FP32.label and each.op not in _KEEP_ROUNDING and each.node in holders
        if all(_is_narrow(layer, each.op in WEIGHTED) for layer in _judged(holders[each.node]))
    )


def departures(decisions: Sequence[NodeDecision], report: EngineReport) -> tuple[str, ...]:
    """Sentences on the nodes that an engine computes in another precision than the lowered graph does."""
    found = [agreement.note for agreement in compare(decisions, report) if agreement.raised]
    if names := narrowed(decisions, report):
        found.append(
            f"the builder computes {len(names)} of the nodes left in {FP32.label} in 16 bits: {named(names)}; it does "
            f"not where a node before or after them is in {FP32.label}, too (--keep)"
        )
    return tuple(found)


def named(nodes: tuple[str, ...]) -> str:
    """The first of them, and how many more there are."""
    more = len(nodes) - _NAMED
    return ", ".join(nodes[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _holders(report: EngineReport) -> dict[str, list[EngineLayer]]:
    """Node -> the layers that it is in."""
    holders: dict[str, list[EngineLayer]] = {}
    for layer in report.kernels:
        for node in layer.nodes:
            holders.setdefault(node, []).append(layer)
    return holders


def _is_narrow(layer: EngineLayer, weighted: bool) -> bool:
    weights = [each for each in layer.constants if prod(each.dims) > 1]  # the others are scaling factors
    if weighted and layer.is_conv_gemm and weights:
        return _in_16_bits(weights)
    unknown = layer.is_attention or _CAST in layer.name
    return not unknown and _in_16_bits([*layer.inputs, *weights, *layer.outputs])


def _in_16_bits(tensors: Sequence[EngineTensor]) -> bool:
    floats = {each.type for each in tensors} & _FLOATS
    return bool(floats) and floats <= _HALF


def _judged(layers: list[EngineLayer]) -> list[EngineLayer]:
    return [layer for layer in layers if layer.is_conv_gemm] or layers


def _satisfies(layer: EngineLayer, types: frozenset[str]) -> bool:
    return bool(layer.types & types) or (not layer.is_conv_gemm and _CAST in layer.name)
