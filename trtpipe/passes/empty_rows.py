"""Attention to nothing: rows of a mask that hide every key.

A softmax over a row of minus infinity is NaN, so that frameworks put 0 there where the result is not a number. That
holds for minus infinity alone. Masks are bounded for 16 bits, and torch's exporter writes the lowest float32 for a mask
of booleans: then the softmax gives equal weights, and the zeros never come. Asking the mask itself has neither problem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import scalar_of
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of
from trtpipe.passes.operators import is_standard
from trtpipe.passes.writer import Writer

#: Numbers from here on hide a key beside any score.
_LOWEST = -1e30
#: Where torch's exporter notes the operator that a node was written for.
_MADE_FOR = "pkg.torch.onnx.fx_node"
_ATTENTION = "aten.scaled_dot_product_attention"


class AskMasks(GraphPass):
    """Write ``Where(IsNaN(p), 0, p)`` with ``p = Softmax(scores + Where(seen, 0, hidden))`` as
    ``Where(nothing seen, 0, p)``, with ``nothing seen`` computed from ``seen``.

    Args:
        written_by_torch: whether nodes that torch wrote for its attention count, whatever ``hidden`` is: they mean
            minus infinity. Else ``hidden`` has to be minus infinity.
    """

    name = "ask_masks"

    def __init__(self, *, written_by_torch: bool = False) -> None:
        self._by_torch = written_by_torch

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every such IsNaN."""
        fresh, opset = FreshNames(model), model.graph.opset_imports.get("", 1)
        modified = False
        for node in [each for graph in graphs_of(model) for each in graph if each.op_type == "IsNaN"]:
            mask = _mask_of(node, self._least(node)) if is_standard(node) else None
            if mask is None:
                continue
            _ask(Writer(node, opset, fresh), mask)
            modified = True
        return PassResult(self.name, modified)

    def _least(self, node: ir.Node) -> float:
        """Numbers up to this one hide a key."""
        meant = self._by_torch and _ATTENTION in node.metadata_props.get(_MADE_FOR, "")
        return _LOWEST if meant else -np.inf


@dataclass(frozen=True)
class _Mask:
    """Which keys are seen: where ``condition`` is ``seen``."""

    condition: ir.Value
    seen: bool


def _mask_of(node: ir.Node, least: float) -> _Mask | None:
    """The mask, where ``node`` asks about the softmax of a sum with it, to put something else in the place of a row."""
    value = node.inputs[0]
    softmax = _maker(value, "Softmax")
    if value is None or softmax is None or not _is_last(softmax.attributes.get_int("axis", -1), value):
        return None
    if any(
        use.node.op_type != "Where" or use.idx != 0 or value not in use.node.inputs for use in node.outputs[0].uses()
    ):
        return None
    total = _maker(softmax.inputs[0], "Add")
    masks = [] if total is None else [_read(_maker(each, "Where"), least) for each in total.inputs]
    return next((mask for mask in masks if mask is not None), None)


def _maker(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and is_standard(node) else None


def _is_last(axis: int, value: ir.Value) -> bool:
    return axis == -1 or (value.shape is not None and axis == len(value.shape) - 1)


def _read(where: ir.Node | None, least: float) -> _Mask | None:
    """A choice between 0 and a number that hides."""
    condition = None if where is None else where.inputs[0]
    if where is None or condition is None or not condition.shape:
        return None
    for seen, (shown, hidden) in ((True, where.inputs[1:]), (False, where.inputs[:0:-1])):
        number = scalar_of(hidden)
        if scalar_of(shown) == 0 and number is not None and number <= least:
            return _Mask(condition, seen)
    return None


def _ask(w: Writer, mask: _Mask) -> None:
    kind, shape = ir.DataType.FLOAT, mask.condition.shape
    assert shape is not None
    chosen = w.op("Cast", mask.condition, dtype=kind, having={"to": int(kind)})
    reduced = w.reduce("ReduceMax" if mask.seen else "ReduceMin", chosen, [-1])
    nothing = w.op("Equal", reduced, w.constant(0 if mask.seen else 1, like=reduced), dtype=ir.DataType.BOOL)
    for value in (reduced, nothing):
        value.shape = ir.Shape([*shape[:-1], 1])
    w.replace(nothing)
