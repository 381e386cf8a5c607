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
from trtpipe.passes.operators import ACTIVATIONS, ARITHMETIC, WEIGHTED, moved_values

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Nodes a search passes at most: attention scores are scaled, masked and reshaped by a handful.
_REACH = 12
#: Nodes a search upwards visits at most: no residual block is as large.
_DEPTH = 400
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

    @property
    def products_of_attention(self) -> frozenset[ir.Node]:
        """The two products of every attention."""
        return frozenset(node for found in self.attentions for node in (found.scores, found.context))


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
        makers = node.predecessors()
        product = next((maker for maker in makers if maker.op_type == "MatMul"), None)
        found = product or next((maker for maker in makers if _has_product_behind(maker, _REACH)), None)
        if found is None:
            return
        yield found
        if found is product:
            return
        node = found


def _has_product_behind(node: ir.Node, reach: int) -> bool:
    """Whether ``node`` passes on a product, by way of other such nodes perhaps."""
    if reach < 0 or (node.op_type not in ARITHMETIC and next(moved_values(node), None) is None):
        return False
    return any(maker.op_type == "MatMul" or _has_product_behind(maker, reach - 1) for maker in node.predecessors())


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


def skip_input(add: ir.Node) -> int | None:
    """The index of the skip input of ``add``; ``None`` if it closes no residual block.

    TensorRT fuses a convolution, or matrix product, with the Add that reads its result. The other input is the
    residual; its precision decides the precision in which the fused kernel writes (NVIDIA, "Working with Quantized
    Types", on Q/DQ placement). Where both inputs end in such a node, the longer way from where the two part is the
    block, and the shorter one, often a single projecting convolution, the skip connection: the rule ModelOpt uses
    (lowest common ancestor).
    """
    first, second = add.inputs[0], add.inputs[1]
    if first is None or second is None or first is second or is_constant(first) or is_constant(second):
        return None
    if _differ(first, second):
        return None
    ends = [_ends_in_weighted(value, add) for value in (first, second)]
    if not any(ends):
        return None
    if all(ends):
        return 0 if _way(first, second) <= _way(second, first) else 1
    return ends.index(False)


def _differ(first: ir.Value, second: ir.Value) -> bool:
    """Whether the inputs surely have different shapes: then one is spread over the other."""
    one, other = first.shape, second.shape
    if one is None or other is None:
        return False
    if len(one) != len(other):
        return True
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(one, other, strict=True))


def _ends_in_weighted(value: ir.Value, reader: ir.Node) -> bool:
    """Whether a weighted node makes ``value``, by way of its own bias perhaps, and ``reader`` alone reads it."""
    while True:
        node = value.producer()
        alone = all(use.node is reader for use in value.uses()) and not value.is_graph_output()
        if node is None or not alone or node.graph is not reader.graph:
            return False
        if node.op_type in WEIGHTED:
            return True
        onward = _through(node)
        if onward is None:
            return False
        value, reader = onward, node


def _through(node: ir.Node) -> ir.Value | None:
    """The value that ``node`` only biases, normalizes or reshapes."""
    if node.op_type == "Add":
        plain = [value for value in node.inputs if value is not None and not is_constant(value)]
        return plain[0] if len(plain) == 1 else None
    if node.op_type == "BatchNormalization":
        return node.inputs[0]
    return next(moved_values(node), None) if node.op_type in ("Reshape", "Transpose", "Squeeze") else None


def _way(value: ir.Value, other: ir.Value) -> int:
    """Nodes between ``value`` and the nearest value that ``other`` depends on too."""
    shared = set(_distances(other))
    return min((steps for found, steps in _distances(value).items() if found in shared), default=_DEPTH)


def _distances(value: ir.Value) -> dict[ir.Value, int]:
    """What ``value`` depends on -> least number of nodes between, nearest first."""
    found, queue = {value: 0}, [value]
    for current in queue:
        node = current.producer()
        if node is None or len(found) > _DEPTH:
            continue
        for before in node.inputs:
            if before is not None and before not in found and not is_constant(before):
                found[before] = found[current] + 1
                queue.append(before)
    return found
