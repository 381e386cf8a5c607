"""Compute once, now, what depends on constants only.

A weight that reaches its operator through a Transpose, Reshape, Identity or Cast is a constant all the same, but
lowering and TensorRT look for one right at the operator. The values come from ONNX's reference implementation, operator
by operator: numpy, deterministic, and no native code that a hostile model could crash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from trtpipe.passes.constants import add_constant, array_of, drop_unused, is_constant, replace_value
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult
from trtpipe.passes.operators import is_standard

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Operators that move, choose, convert or combine values cheaply: what graphs compute from constants consists of them.
_FOLDED = frozenset(
    {
        "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Concat", "Slice", "Split",
        "Gather", "Expand", "Shape", "Size", "ConstantOfShape", "Where", "Add", "Sub", "Mul", "Div", "Neg", "Sqrt",
        "Reciprocal", "Pow", "Exp", "Abs", "Floor", "Ceil", "Min", "Max", "Equal", "Less", "Greater", "Not", "And",
        "Or",
    }
)  # fmt: skip
#: Results larger than this, in bytes, and larger than what they are made of are left to the engine: an Expand of one
#: number must not become a gigabyte of file.
_MOST_GROWTH = 1 << 16


class FoldConstants(GraphPass):
    """Replace nodes whose inputs are all constants by their results.

    Left as they are: operators that are random, quantize, or compute much; results that would make the file larger
    by more than 64 KiB each; nodes that the reference implementation refuses; graph outputs.
    """

    name = "fold_constants"

    def call(self, model: ir.Model) -> PassResult:
        """In the order of computation, so that chains fold."""
        fresh = FreshNames(model)
        modified = False
        for node in list(model.graph.all_nodes()):
            if _foldable(node):
                modified |= _fold(node, model.graph.opset_imports.get("", 0), fresh)
        if modified:
            drop_unused(model)
        return PassResult(self.name, modified=modified)


def _foldable(node: ir.Node) -> bool:
    if node.op_type not in _FOLDED or not is_standard(node):
        return False
    if any(value.is_graph_output() for value in node.outputs):
        return False
    given = [value for value in node.inputs if value is not None]
    return bool(given) and all(is_constant(value) for value in given)


def _fold(node: ir.Node, opset: int, fresh: FreshNames) -> bool:
    if node.op_type in ("ConstantOfShape", "Expand"):  # sized by the content of an input
        wanted = array_of(node.inputs[-1])
        if wanted is None or np.prod(wanted, dtype=np.float64) * 8 > _MOST_GROWTH:
            return False
    results = _computed(node, opset)
    size = sum(value.const_value.nbytes for value in node.inputs if value is not None and value.const_value is not None)
    if results is None or sum(array.nbytes for array in results) > size + _MOST_GROWTH:
        return False
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    for output, array in zip(node.outputs, results, strict=True):
        replace_value(output, add_constant(graph, fresh, f"{output.name}_folded", array))
    graph.remove(node, safe=True)
    return True


def _computed(node: ir.Node, opset: int) -> list[np.ndarray] | None:
    """The results of a node of constants; ``None`` where the reference implementation refuses it."""
    feeds = {
        str(value.name): array for value in node.inputs if value is not None and (array := array_of(value)) is not None
    }
    proto, imports = ir.serde.serialize_node(node), [onnx.helper.make_opsetid("", opset)]
    try:
        with np.errstate(all="ignore"):
            found = evaluator_of(proto, feeds, [str(value.name) for value in node.outputs], imports).run(None, feeds)
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError, AttributeError):
        return None
    arrays = [np.asarray(value) for value in found]
    known = all(
        value.dtype is None or value.dtype.numpy() == a.dtype for value, a in zip(node.outputs, arrays, strict=True)
    )
    return arrays if known and len(arrays) == len(node.outputs) else None


def evaluator_of(
    node: onnx.NodeProto, inputs: Iterable[str], outputs: Iterable[str], imports: Sequence[onnx.OperatorSetIdProto]
) -> ReferenceEvaluator:
    """ONNX's reference implementation of a single node: it takes ``inputs`` and gives ``outputs``."""
    given, made = ([onnx.ValueInfoProto(name=name) for name in names] for names in (inputs, outputs))
    return ReferenceEvaluator(
        onnx.helper.make_model(onnx.helper.make_graph([node], "one", given, made), opset_imports=imports)
    )
