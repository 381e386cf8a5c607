"""How much every node computes at the typical shapes: multiply-accumulates, counted once for all copies of a graph.

A graph with open dimensions does not say how large its tensors are, so what a layer costs cannot be read off it. With
the typical shapes of the inputs it can be inferred, in a child process, because shape inference can crash. The counts
stay with the nodes, as metadata, for the later stages.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from trtpipe.artifact import Record
from trtpipe.isolation.remote_runner import call_forked
from trtpipe.isolation.worker import LIGHT, Report, limits_for
from trtpipe.passes.graph_pass import graphs_of
from trtpipe.passes.macs import MACS, recurrent_macs, work_of
from trtpipe.preflight import folder_size
from trtpipe.preflight.onnx_io import with_shared_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.config.build_request import Shapes
    from trtpipe.config.settings import Settings


class CountRequest(Record):
    """The graph, and the typical shapes of its inputs."""

    model: str
    shapes: dict[str, tuple[int, ...]]


class Counts(Record):
    """Multiply-accumulates of the nodes that have some, in the order of the graph; ``None`` for the others."""

    macs: tuple[str | None, ...]


class CountedGraph:
    """A simplified graph, of which each copy tells how much its nodes compute.

    Args:
        path: the simplified graph.
        shapes: the typical shapes of its inputs.
        runtime: the limits of the child process.
        workdir: a folder in which graphs made from it are opened. Its weights are then written there once, and neither
            read nor written again by copies in which they are the same; whoever gives the folder removes it.
    """

    def __init__(self, path: Path, shapes: Shapes, runtime: Settings, workdir: Path | None = None) -> None:
        self.path = path
        self.runtime = runtime
        self._shapes = shapes
        self._workdir = workdir

    def load(self) -> ir.Model:
        """A fresh copy in the plain form.

        Raises:
            WorkerError: shape inference crashes, or takes too long or too much memory.
        """
        from trtpipe.passes.clean_up import load_clean

        model = load_clean(self._source)
        for node, macs in zip(model.graph.all_nodes(), self._counts.macs, strict=True) if self._shapes else ():
            if macs is not None:
                node.metadata_props[MACS] = macs
        return model

    @cached_property
    def _source(self) -> Path:
        if self._workdir is None:
            return self.path
        return with_shared_weights(self.path, self._workdir)

    @cached_property
    def _counts(self) -> Counts:
        return call_forked(
            "trtpipe.quantization.mac_count:count_task",
            CountRequest(model=str(self.path), shapes=self._shapes),
            Counts,
            limits=limits_for(self.runtime, work=LIGHT, size=folder_size(self.path.parent)),
            what=f"counting the multiply-accumulates of {self.path.name}",
            reads=(self.path.parent,),
        )


def count_task(request: CountRequest, report: Report) -> Counts:
    """Infer shapes and count (in the child process)."""
    from trtpipe.passes.clean_up import load_clean

    model = load_clean(Path(request.model))
    count_macs(model, request.shapes)
    return Counts(macs=tuple(node.metadata_props.get(MACS) for node in model.graph.all_nodes()))


def count_macs(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write on every weighted node how much it computes; nodes whose result's shape stays unknown get no count.

    Args:
        shapes: input -> its typical shape; inputs that are not named keep their own. The graph's own shapes stay.
    """
    inputs = set(model.graph.inputs)
    own = {value: value.shape for graph in graphs_of(model) for node in graph for value in node.outputs}
    own |= {value: value.shape for value in inputs}
    counts: dict[ir.Node, int] = {}
    try:
        for value in own:
            value.shape = None
        for value in inputs:
            shape = shapes.get(value.name or "")
            before = own[value]  # of a static input, the numbers given are values
            value.shape = before if shape is None or (before is not None and before.is_static()) else ir.Shape(shape)
        ShapeInferencePass(check_type=False, strict_mode=False)(model)
        for node in model.graph.all_nodes():
            work = work_of(node)
            if work is not None and node.outputs[0].shape is not None and node.outputs[0].shape.is_static():
                counts[node] = work.macs
            elif (macs := recurrent_macs(node)) is not None:
                counts[node] = macs
    finally:
        for value, before in own.items():
            value.shape = before
    for node, macs in counts.items():
        node.metadata_props[MACS] = str(macs)
