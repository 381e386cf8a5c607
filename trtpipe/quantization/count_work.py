"""Write on every weighted node how much it computes at the typical shapes.

A graph with open dimensions does not say how large its tensors are, so what a layer costs cannot be read off it. With
the typical shapes of the inputs it can be inferred; the count stays with the node, as metadata, for the later stages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from trtpipe.passes.graph_pass import GraphPass, PassResult, graphs_of
from trtpipe.passes.macs import MACS, work_of

if TYPE_CHECKING:
    from collections.abc import Mapping


class CountWork(GraphPass):
    """Infer all shapes from those of the inputs, count, and put the graph's own shapes back.

    Args:
        shapes: input -> its typical shape; inputs that are not named keep their own.
    """

    name = "count_work"

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def call(self, model: ir.Model) -> PassResult:
        """Nodes whose result's shape stays unknown get no count."""
        if not self._shapes:
            return PassResult(self.name, modified=False)
        inputs = set(model.graph.inputs)
        own = {value: value.shape for graph in graphs_of(model) for node in graph for value in node.outputs}
        own |= {value: value.shape for value in inputs}
        counts: dict[ir.Node, int] = {}
        try:
            for value in own:
                value.shape = None
            for value in inputs:
                shape = self._shapes.get(value.name or "")
                before = own[value]  # of a static input, the numbers given are values
                static = before is not None and before.is_static()
                value.shape = before if shape is None or static else ir.Shape(shape)
            ShapeInferencePass(check_type=False, strict_mode=False)(model)
            for node in model.graph.all_nodes():
                work = work_of(node)
                if work is not None and node.outputs[0].shape is not None and node.outputs[0].shape.is_static():
                    counts[node] = work.macs
        finally:
            for value, before in own.items():
                value.shape = before
        for node, macs in counts.items():
            node.metadata_props[MACS] = str(macs)
        return PassResult(self.name, modified=bool(counts))
