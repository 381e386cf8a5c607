"""Which input of an Add is the skip connection of a residual block.

TensorRT fuses a convolution, or matrix product, with the Add that reads its result. The other input is the residual;
its precision decides the precision in which the fused kernel writes (NVIDIA, "Working with Quantized Types", on Q/DQ
placement). Where both inputs end in such a node, the longer way from where the two part is the block, and the shorter
one, often a single projecting convolution, the skip connection: the rule ModelOpt uses (lowest common ancestor).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.passes.constants import is_constant
from trtpipe.passes.operators import WEIGHTED, moved_values

if TYPE_CHECKING:
    import onnx_ir as ir

#: Nodes a search upwards visits at most: no residual block is as large.
_REACH = 400


def skip_input(add: ir.Node) -> int | None:
    """The index of the skip input of ``add``; ``None`` if it closes no residual block."""
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
    return min((steps for found, steps in _distances(value).items() if found in shared), default=_REACH)


def _distances(value: ir.Value) -> dict[ir.Value, int]:
    """What ``value`` depends on -> least number of nodes between, nearest first."""
    found, queue = {value: 0}, [value]
    for current in queue:
        node = current.producer()
        if node is None or len(found) > _REACH:
            continue
        for before in node.inputs:
            if before is not None and before not in found and not is_constant(before):
                found[before] = found[current] + 1
                queue.append(before)
    return found
