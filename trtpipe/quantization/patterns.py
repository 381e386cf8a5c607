"""Which nodes together form a known pattern. Analysis only: nothing is changed.

Exporters spell GELU, layer normalization and attention in elementary operators. Whoever quantizes, or casts, has to see
the whole: the exponent of a softmax, the square in a variance and the error function in a GELU want the same care
whether they are one node or nine.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose, pi, sqrt
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.passes.constants import is_constant, scalar_of
from trtpipe.passes.fuse_layer_norm import layer_norm_at
from trtpipe.passes.operators import ACTIVATIONS, ARITHMETIC, moved_values

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Nodes a search passes at most: attention scores are scaled, masked and reshaped by a handful.
_REACH = 12
#: Where integers that count or address things come from.
_COUNTS = frozenset({"Shape", "Size", "Range", "NonZero", "ArgMax", "ArgMin"})


@dataclass(frozen=True)
class Attention:
    """``softmax(scale * Q K^T + mask) V``.

    Attributes:
        scores: the product of Q and K^T.
        context: the product of the weights and V.
        inner: the nodes between the two: scaling, mask, softmax.
    """

    scores: ir.Node
    context: ir.Node
    inner: tuple[ir.Node, ...]


@dataclass(frozen=True)
class Patterns:
    """What was recognized.

    Attributes:
        names: node -> the pattern it is part of.
        attentions: every attention with its two products.
        positions: values computed from shapes, ranges or indices alone.
    """

    names: dict[ir.Node, str]
    attentions: tuple[Attention, ...]
    positions: frozenset[ir.Value]


def recognize(model: ir.Model) -> Patterns:
    """Find layer normalizations, GELUs, attentions and arithmetic on shapes in all graphs of ``model``."""
    names: dict[ir.Node, str] = {}
    attentions: list[Attention] = []
    positions: set[ir.Value] = set()
    for node in model.graph.all_nodes():
        if (norm := layer_norm_at(node)) is not None:
            names.update(dict.fromkeys(norm.nodes, "layer normalization"))
        if node.op_type in ("Erf", "Tanh"):
            names.update(dict.fromkeys(_gelu(node), "GELU"))
        if node.op_type == "Softmax" and (attention := _attention(node)) is not None:
            attentions.append(attention)
            names.update(dict.fromkeys(attention.inner, "attention"))
        if _counts(node, positions):
            positions.update(node.outputs)
    return Patterns(names, tuple(attentions), frozenset(positions))


def _attention(softmax: ir.Node) -> Attention | None:
    """The attention around ``softmax``: a product of two activations before it, and one after."""
    before = list(_back_to_product(softmax))
    after = list(_on_to_product(softmax))
    if not before or not after or before[-1].op_type != "MatMul" or after[-1].op_type != "MatMul":
        return None
    if any(is_constant(value) for product in (before[-1], after[-1]) for value in product.inputs):
        return None
    return Attention(before[-1], after[-1], (*before[:-1], softmax, *after[:-1]))


def _back_to_product(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes before ``node``, along the operand that a product feeds, up to and with that product."""
    for _ in range(_REACH):
        producers = [p for value in node.inputs if value is not None and (p := value.producer()) is not None]
        product = next((p for p in producers if p.op_type == "MatMul"), None)
        onward = [p for p in producers if p.op_type in ARITHMETIC or next(moved_values(p), None) is not None]
        found = product or next((p for p in onward if _has_product_behind(p, _REACH)), None)
        if found is None:
            return
        yield found
        if found is product:
            return
        node = found


def _has_product_behind(node: ir.Node, reach: int) -> bool:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is None or reach == 0:
            continue
        if producer.op_type == "MatMul":
            return True
        passes_on = producer.op_type in ARITHMETIC or next(moved_values(producer), None) is not None
        if passes_on and _has_product_behind(producer, reach - 1):
            return True
    return False


def _on_to_product(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes after ``node`` that only pass its values on, up to and with the product that reads them."""
    for _ in range(_REACH):
        users = [use.node for use in node.outputs[0].uses()]
        found = next((user for user in users if user.op_type == "MatMul"), None)
        onward = found or next(
            (user for user in users if node.outputs[0] in moved_values(user) or user.op_type == "Where"), None
        )
        if onward is None:
            return
        yield onward
        if found is not None:
            return
        node = onward


def _gelu(inner: ir.Node) -> tuple[ir.Node, ...]:
    """The nodes of a GELU around its Erf, or around the Tanh of its approximation (arXiv:1606.08415)."""
    if inner.inputs[0] is None or (scaled := inner.inputs[0].producer()) is None:
        return ()
    if not _scales_by(scaled, 1 / sqrt(2) if inner.op_type == "Erf" else sqrt(2 / pi)):
        return ()
    plus_one = next((use.node for use in inner.outputs[0].uses() if use.node.op_type == "Add"), None)
    if plus_one is None or not any(scalar_of(value) == 1 for value in plus_one.inputs):
        return ()
    found = [scaled, inner, plus_one]
    while len(found) < 5:  # the products with x and with 1/2, in either order
        product = next((use.node for use in found[-1].outputs[0].uses() if use.node.op_type == "Mul"), None)
        if product is None:
            break
        found.append(product)
    return tuple(found) if len(found) > 3 else ()


def _scales_by(node: ir.Node, factor: float) -> bool:
    constant = next((number for value in node.inputs if (number := scalar_of(value)) is not None), None)
    if constant is None or node.op_type not in ("Mul", "Div") or constant == 0:
        return False
    return isclose(constant if node.op_type == "Mul" else 1 / constant, factor, rel_tol=1e-2)


def _counts(node: ir.Node, positions: set[ir.Value]) -> bool:
    """Whether the node's results follow from shapes, ranges and indices alone."""
    if node.op_type in _COUNTS:
        return True
    if (
        node.op_type not in ACTIVATIONS | ARITHMETIC | {"Cast", "MatMul", "Gemm"}
        and next(moved_values(node), None) is None
    ):
        return False
    given = [value for value in node.inputs if value is not None and not is_constant(value)]
    moved = list(moved_values(node))
    if moved:  # a table cut to a length is a table still: what is moved decides, not where to
        given = [value for value in moved if not is_constant(value)]
    return bool(given) and all(value in positions for value in given)
