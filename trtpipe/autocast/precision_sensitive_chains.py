"""Arithmetic whose rounding is seen at its end, found backwards from there.

16 bits round relatively, which is accurate enough for activations. Three ends are different. A position is judged
absolutely: float16 moves a box at pixel 600 by a quarter of a pixel, wherever on the way that happens. And a value that
is divided by, or whose root or logarithm is taken, must not lose its digits on the way towards 0: a logarithm would
become infinite. And what a difference leaves of values far from 0 is no better than they were rounded: the mean that is
taken from an input in float32 must be taken in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.autocast.range_guard import AFFINE
from trtpipe.autocast.range_probes import divisor_of
from trtpipe.passes.operators import CONTAINERS, NORMALISATIONS, PURE_MOVES, origin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.autocast.range_guard import RangeGuard
    from trtpipe.config.formats import Format

#: operator -> the input that holds positions
_POSITIONS = {"NonMaxSuppression": 0, "RoiAlign": 1, "GridSample": 1}
#: operators that pass a value on, at most with something added
_SHIFTS = PURE_MOVES | {"Add", "Clip", "Max"}
_ARITHMETIC = _SHIFTS | {"Sub", "Mul", "Div", "Concat", "Where", "Min", "Neg"}
_POWERS = frozenset({"Pow", "Exp", "Sqrt", "Abs", "ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL2", "ReduceL1"})
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"})
#: Absolute rounding error that is visible: an eighth of a pixel.
_VISIBLE = 0.125


def precision_sensitive_chains(model: ir.Model, half: Format, guard: RangeGuard | None) -> dict[ir.Node, str]:
    """Nodes whose rounding would be seen -> why they are kept in float32.

    Args:
        guard: what was measured; without it only operators that take positions, and logarithms, are followed.
    """
    found: dict[ir.Node, str] = {}
    for value, reason in _positions(model, half, guard):
        _follow(value, reason, found, _ARITHMETIC)
    for value, reason in _small_values(model, guard):
        _follow_small(value, reason, found)
    _keep_differences(model, guard, found)
    return found


def _positions(model: ir.Model, half: Format, guard: RangeGuard | None) -> Iterator[tuple[ir.Value, str]]:
    for node in model.graph.all_nodes():
        value = node.inputs[_POSITIONS[node.op_type]] if node.op_type in _POSITIONS else None
        if value is not None:
            yield value, f"positions for {node.op_type}"
    for value in model.graph.outputs:
        seen = guard.range_of(value) if guard is not None and value.dtype == ir.DataType.FLOAT else None
        if seen is not None and (error := seen.largest * half.rounding) > _VISIBLE:
            yield (
                value,
                f"output {value.name!r} reaches {seen.largest:.3g}, which {half.storage} would move by {error:.2g}",
            )


def _small_values(model: ir.Model, guard: RangeGuard | None) -> Iterator[tuple[ir.Value, str]]:
    for node in model.graph.all_nodes():
        if (value := divisor_of(node)) is None:
            continue
        known = guard is not None and guard.knows(node)
        reason = guard.small_divisor(node) if guard is not None and known else None
        if reason is None and not known and node.op_type == "Log":
            reason = "nothing was measured, and it may be small"
        if reason is not None:
            yield value, f"leads to a {node.op_type}: {reason}"


def _follow_small(value: ir.Value, reason: str, found: dict[ir.Node, str]) -> None:
    """Keep what makes ``value``, up to and with the first operator that does more than shift it, and what is behind."""
    while (node := value.producer()) is not None and node.op_type in _SHIFTS and not _closes_residual(node):
        found.setdefault(node, reason)
        operands = node.inputs[:1] if node.op_type in PURE_MOVES else node.inputs
        varying = [each for each in operands if each is not None and each.const_value is None]
        if len(varying) != 1:
            break
        value = varying[0]
    if node is None or node.op_type in CONTAINERS or _closes_residual(node):
        return
    found.setdefault(node, reason)
    if node.op_type in _ARITHMETIC | _POWERS | _WEIGHTED:
        for each in node.inputs:
            if each is not None and each.dtype == ir.DataType.FLOAT:
                _follow(each, reason, found, _ARITHMETIC | _POWERS)


def _follow(value: ir.Value, reason: str, found: dict[ir.Node, str], through: frozenset[str]) -> None:
    waiting = [value]
    while waiting:
        node = waiting.pop().producer()
        if node is None or node in found or node.op_type not in through or _closes_residual(node):
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


def _keep_differences(model: ir.Model, guard: RangeGuard | None, found: dict[ir.Node, str]) -> None:
    """Keep what takes values from each other that cancel, all from the model's inputs on, and what scales the rest.

    Behind a layer, whose result is stored in 16 bits, nothing is won by it.
    """
    reasons: dict[ir.Node, str] = {}
    for node in model.graph.all_nodes() if guard is not None else ():
        near = node.op_type not in AFFINE or _exact_chain(node) is not None  # weights of others are not looked at
        reason = guard.cancels(node) if guard is not None and near else None
        if reason is not None:
            chain = _exact_chain(node)
            reasons |= dict.fromkeys(chain, f"leads to {node.op_type} {node.name!r}: {reason}") if chain else {}
            reasons |= {node: reason} if chain is not None else {}
        elif node.op_type in _ARITHMETIC - PURE_MOVES and _scaled(node) in reasons:
            reasons[node] = "scales what is left of values that cancel: the cast comes behind it"
    for node, reason in reasons.items():
        found.setdefault(node, reason)


def _scaled(node: ir.Node) -> ir.Node | None:
    """What makes the only input of ``node`` that is no constant."""
    varying = [value for value in node.inputs if value is not None and value.const_value is None]
    return varying[0].producer() if len(varying) == 1 else None


def _exact_chain(node: ir.Node) -> list[ir.Node] | None:
    """All nodes between the model's inputs and ``node``; ``None`` where a layer, or anything but arithmetic, is one."""
    chain: dict[ir.Node, None] = {}
    waiting = [value for value in node.inputs[: 1 if node.op_type in NORMALISATIONS else None] if value is not None]
    while waiting:
        value = waiting.pop()
        maker = value.producer()
        if value.dtype != ir.DataType.FLOAT or maker in chain or value.const_value is not None:
            continue
        if maker is None:
            if not value.is_graph_input():
                return None
        elif maker.op_type == "Cast":
            if maker.inputs[0] is None or maker.inputs[0].dtype is None or not maker.inputs[0].dtype.is_integer():
                return None
        elif maker.op_type in _ARITHMETIC | _POWERS:
            chain[maker] = None
            waiting += [each for each in maker.inputs if each is not None]
        else:
            return None
    return list(chain)
