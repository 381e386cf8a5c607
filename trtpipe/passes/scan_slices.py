"""A form of Scan that TensorRT's graph compiler takes: found with TensorRT-RTX 1.7."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, bodies_of
from trtpipe.passes.operators import is_standard, origin

if TYPE_CHECKING:
    from collections.abc import Iterator


class SeparateScanSlices(GraphPass):
    """Let an Identity stand between what a Scan gives its body at every step and a Cast that reads it.

    Without it the compiler stops at a Cast between two floating-point types.
    """

    name = "separate_scan_slices"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the bodies of all Scans."""
        fresh = FreshNames(model)
        modified = False
        for body, value in _slices(model):
            casts = [node for node in body if node.op_type == "Cast" and is_standard(node) and _reads(node, value)]
            if not casts:
                continue
            copy = ir.val(fresh(f"{value.name}_slice"), value.dtype, value.shape)
            body.insert_before(
                body[0], [ir.node("Identity", [value], outputs=[copy], name=fresh(f"{value.name}_copy"))]
            )
            for user, index in [(use.node, use.idx) for use in value.uses() if use.node is not copy.producer()]:
                if user.graph is body:
                    user.replace_input_with(index, copy)
            modified = True
        return PassResult(self.name, modified)


def _slices(model: ir.Model) -> Iterator[tuple[ir.Graph, ir.Value]]:
    """Every value that a Scan gives its body step by step, with the body."""
    for node in list(model.graph.all_nodes()):
        if node.op_type != "Scan" or not is_standard(node):
            continue
        count = node.attributes["num_scan_inputs"].as_int()
        for body in bodies_of(node):
            yield from ((body, value) for value in list(body.inputs)[-count:])


def _reads(cast: ir.Node, value: ir.Value) -> bool:
    """Whether a Cast reads a value, or what only moves it."""
    return cast.inputs[0] is not None and origin(cast.inputs[0]) is value
