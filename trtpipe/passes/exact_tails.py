"""Coordinates: arithmetic whose absolute rounding error counts, found backwards from where it ends.

16 bits round relatively, which harms no activation. A box at pixel 600 is different: float16 moves it by a quarter of
a pixel, wherever on the way that happens. So the arithmetic between the last weighted operator and the place where a
large value leaves the graph, or is used as a position, stays in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.passes.carriers import PURE_MOVES, origin
from trtpipe.passes.half_types import HALVES, HalfType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.passes.range_guard import RangeGuard

#: operator -> the input that holds positions
_POSITIONS = {"NonMaxSuppression": 0, "RoiAlign": 1, "GridSample": 1}
_ARITHMETIC = PURE_MOVES | {"Add", "Sub", "Mul", "Div", "Concat", "Where", "Max", "Min", "Clip", "Neg"}
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"})
#: Absolute rounding error that is visible: an eighth of a pixel.
_VISIBLE = 0.125


def exact_tails(model: ir.Model, half: HalfType, guard: RangeGuard | None) -> dict[ir.Node, str]:
    """Nodes whose rounding would move positions -> why they stay in float32.

    Args:
        guard: what was measured; without it only the inputs of operators that take positions are followed, because
            nothing is known of the size of the outputs.
    """
    found: dict[ir.Node, str] = {}
    for value, reason in _ends(model, half, guard):
        _follow(value, reason, found)
    return found


def _ends(model: ir.Model, half: HalfType, guard: RangeGuard | None) -> Iterator[tuple[ir.Value, str]]:
    for node in model.graph.all_nodes():
        value = node.inputs[_POSITIONS[node.op_type]] if node.op_type in _POSITIONS else None
        if value is not None:
            yield value, f"positions for {node.op_type}"
    for value in model.graph.outputs:
        seen = guard.extent(value) if guard is not None and value.dtype == ir.DataType.FLOAT else None
        if seen is not None and (error := seen.largest * HALVES[half].rounding) > _VISIBLE:
            yield value, f"output {value.name!r} reaches {seen.largest:.3g}, which {half} would move by {error:.2g}"


def _follow(value: ir.Value, reason: str, found: dict[ir.Node, str]) -> None:
    waiting = [value]
    while waiting:
        node = waiting.pop().producer()
        if node is None or node in found or node.op_type not in _ARITHMETIC or _closes_residual(node):
            continue
        found[node] = reason
        waiting += [each for each in node.inputs if each is not None and each.dtype == ir.DataType.FLOAT]


def _closes_residual(node: ir.Node) -> bool:
    """Whether a sum adds a layer's result to what went into the layer: activations, not positions."""
    varying = [value for value in node.inputs if value is not None and value.const_value is None]
    return node.op_type == "Add" and len(varying) > 1 and any(_from_layer(value) for value in varying)


def _from_layer(value: ir.Value) -> bool:
    node = origin(value).producer()
    while node is not None and node.op_type == "Add" and (rest := _without_bias(node)) is not None:
        node = origin(rest).producer()
    return node is not None and node.op_type in _WEIGHTED


def _without_bias(node: ir.Node) -> ir.Value | None:
    """The other summand of a bias: of a constant that is the same everywhere but along one axis."""
    for bias, rest in (node.inputs, node.inputs[::-1]):
        tensor = None if bias is None else bias.const_value
        if tensor is not None and sum(size != 1 for size in tensor.shape.numpy()) <= 1:
            return rest
    return None
