"""Attention masks that 16 bits can hold.

Frameworks mask with the lowest float32, or minus infinity. In float16 the former becomes minus infinity, and a row
that is masked throughout then turns into NaN in the softmax. Where a constant is provably such a mask, a value does
that masks as completely and can be added twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import add_constant
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, graphs_of
from trtpipe.passes.operators import PURE_MOVES

if TYPE_CHECKING:
    from collections.abc import Callable

#: Exact in float16 and bfloat16; twice it, and scores of some thousands, stay within a quarter of float16's range, the
#: margin of the range guard; exp() of it is 0.
_MASKED = -6144.0
#: Constants from here on are no numbers to calculate with.
_LOWEST = -1e30
_ADDS = 2


class BoundMasks(GraphPass):
    """Replace the lowest floats of a mask by -6144.

    A constant is a mask if every element is 0, 1 or below -1e30, and all its readers lead to a Softmax (not LogSoftmax,
    which shows the value): by moving it, choosing it with Where, multiplying it with integers, or by at most two
    additions. Any other use leaves it as it is, and the range rules keep its readers in float32.
    """

    name = "bound_masks"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every mask."""
        fresh = FreshNames(model)
        integers = _from_integers(model)
        constants = [value for graph in graphs_of(model) for value in graph.initializers.values() if _lowest(value)]
        replaced = [value for value in constants if _only_masks(value, integers, 0, {})]
        for value in replaced:
            _replace(value, fresh)
        filled = [node for node in model.graph.all_nodes() if _filled_lowest(node)]
        filled = [node for node in filled if _only_masks(node.outputs[0], integers, 0, {})]
        for node in filled:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.array([_MASKED], np.float32)))
        return PassResult(self.name, modified=bool(replaced or filled))


#: Before values are measured for 16 bits, and before a graph is lowered to them.
HALF_FORM: tuple[GraphPass, ...] = (BoundMasks(),)


def _lowest(value: ir.Value) -> bool:
    """Whether a constant holds nothing but 0, 1 and the lowest floats, and at least one of those."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or value.is_graph_output() or not value.uses():
        return False
    array = tensor.numpy()
    low = array <= _LOWEST
    return bool(low.any() and np.isin(array[~low], (0.0, 1.0)).all())


def _filled_lowest(node: ir.Node) -> bool:
    fill = node.attributes.get("value") if node.op_type == "ConstantOfShape" else None
    return fill is not None and bool((fill.as_tensor().numpy() <= _LOWEST).all())


def _replace(value: ir.Value, fresh: FreshNames) -> None:
    tensor, graph = value.const_value, value.graph
    assert tensor is not None and isinstance(graph, ir.Graph)  # noqa: PT018
    array = tensor.numpy()
    bounded = np.where(array <= _LOWEST, np.float32(_MASKED), array)
    ir.convenience.replace_all_uses_with(value, add_constant(graph, fresh, f"{value.name}_bounded", bounded))
    del graph.initializers[str(value.name)]


def _only_masks(value: ir.Value, integers: set[ir.Value], adds: int, seen: dict[ir.Value, int]) -> bool:
    """Whether all that becomes of ``value``, added to something ``adds`` times already, ends in a Softmax."""
    if value.is_graph_output() or not value.uses():
        return False
    if seen.get(value, -1) >= adds:
        return True
    seen[value] = adds
    for node, index in ((use.node, use.idx) for use in value.uses() if use.node.op_type != "Softmax"):
        step, added = _STEPS.get(node.op_type), adds + (node.op_type == "Add")
        if step is None or not step(node, index, integers) or added > _ADDS:
            return False
        if not _only_masks(node.outputs[0], integers, added, seen):
            return False
    return True


#: operator -> whether it passes a mask on that is the input of this index
_STEPS: dict[str, Callable[[ir.Node, int, set[ir.Value]], bool]] = {
    **dict.fromkeys(PURE_MOVES | {"Trilu"}, lambda node, index, integers: index == 0),
    "Where": lambda node, index, integers: index > 0,
    "Mul": lambda node, index, integers: node.inputs[1 - index] in integers,
    "Add": lambda node, index, integers: True,
}


def _from_integers(model: ir.Model) -> set[ir.Value]:
    """Float values that are casts of integers or booleans, or differences between those and whole constants."""
    found: set[ir.Value] = set()
    for node in model.graph.all_nodes():
        source = node.inputs[0] if node.inputs else None
        if source is None:
            continue
        if node.op_type == "Cast":
            whole = source.dtype is not None and (source.dtype.is_integer() or source.dtype == ir.DataType.BOOL)
        elif node.op_type in PURE_MOVES:
            whole = source in found
        else:
            whole = node.op_type == "Sub" and all(value in found or _whole(value) for value in node.inputs)
        if whole:
            found.update(node.outputs)
    return found


def _whole(value: ir.Value | None) -> bool:
    tensor = None if value is None else value.const_value
    return tensor is not None and bool(np.all(tensor.numpy() == np.rint(tensor.numpy())))
