"""The fake-quantization simulator: one graph on disk in which any choice of points can be lowered, with any ranges."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from trtpipe.backends.base import load_backend
from trtpipe.passes.graph_pass import result_of
from trtpipe.passes.logits import show_logits
from trtpipe.quantization.apply_corrections import apply_corrections
from trtpipe.quantization.qdq import safe_scale
from trtpipe.quantization.simulation_graph import (
    add_branches,
    behind,
    find_partitions,
    group_points,
    lowering_of,
    nodes_inside,
    resolve,
)  # fmt: skip
from trtpipe.reference.reference_outputs import forget

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from trtpipe.artifact import Feed
    from trtpipe.backends.base import OpenRunner, Turn
    from trtpipe.config.formats import Format
    from trtpipe.quantization.mac_count import CountedGraph
    from trtpipe.quantization.plan import QuantizationPlan
    from trtpipe.quantization.simulation_graph import Partition

#: Runs that a graph is not made fast for.
_FEW = 4
_GRAPH, _WEIGHTS, _CHOSEN = "simulated.onnx", "simulated.data", "chosen.onnx"


@dataclass(frozen=True)
class LayerGroup:
    """Nodes that change their precision together.

    Attributes:
        nodes: how reports and ``keep`` patterns name them.
        results: of the nodes.
        operators: of the nodes.
        macs: multiply-accumulates at the typical shapes.
        first: position of the first of them among the nodes of the main graph.
    """

    nodes: tuple[str, ...]
    results: tuple[str, ...]
    operators: tuple[str, ...]
    macs: int
    first: int


@dataclass(frozen=True)
class SimulatorSession:
    """A graph with a condition for every point, and an input for every scale; one choice of groups runs at a time.

    Attributes:
        plan: what is lowered if all groups are.
        groups: in graph order; none where nothing can be lowered.
        not_lowered: multiply-accumulates of weighted nodes that are in no group.
        partitions: where the graph can begin for groups that lie behind.
    """

    plan: QuantizationPlan
    groups: tuple[LayerGroup, ...]
    not_lowered: int
    partitions: tuple[Partition, ...]
    _folder: Path
    _proto: onnx.ModelProto
    _conditions: Mapping[str, str]
    _scales: Mapping[str, str]
    _turn: Turn

    def scales(self, amax: Mapping[str, float]) -> Feed:
        """What to feed for these ranges; of tensors that share a scale the largest counts, as in lowering."""
        joint: dict[str, float] = {}
        for tensor, name in self._scales.items():
            joint[name] = max(amax[tensor], joint.get(name, 0.0))
        form, scales = self.plan.format, self.plan.scales
        return {
            name: np.asarray(safe_scale(np.float32(limit), form.largest, scales), np.float32)
            for name, limit in joint.items()
        }

    @property
    def weight_bytes(self) -> int:
        """Size of both sets of weights, as far as they lie beside the graph."""
        path = self._folder / _WEIGHTS
        return path.stat().st_size if path.exists() else 0

    def set(
        self, groups: Collection[int], *, runs: int, begin: Partition | None = None, show: Collection[str] = ()
    ) -> OpenRunner:
        """A runner of the graph in which just these groups are lowered, good until the next choice.

        Args:
            runs: how many times it will run, about.
            begin: take the values of this partition as inputs; no group may lie before it.
            show: values to give as outputs too.
        """
        true = [self._conditions[result] for index in groups for result in self.groups[index].results]
        chosen = resolve(self._proto, self._conditions.values(), true)
        for name in show:
            chosen.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        path = self._folder / _CHOSEN
        path.write_bytes((chosen if begin is None else behind(chosen, begin)).SerializeToString())
        return self._turn(path, few=runs <= _FEW)


@contextmanager
def open_simulator(
    graph: CountedGraph, plan: QuantizationPlan, workdir: Path, half: Format | None = None
) -> Iterator[SimulatorSession]:
    """The simulator of a plan, with its corrections; outputs that saturate have their inputs beside them.

    Args:
        graph: the graph that was planned.
        plan: with ranges.
        half: a 16-bit format that points are lowered to instead of being quantized.
    """
    model = graph.load()
    plan = apply_corrections(model, plan, biases=False)
    positions = _positions(model)
    groups = tuple(
        LayerGroup(
            tuple(point.node for point in points),
            tuple(point.result for point in points),
            tuple(dict.fromkeys(point.op for point in points)),
            sum(plan.macs.get(point.result, 0) for point in points),
            min(positions[point.result] for point in points),
        )
        for points in group_points(plan)
    )
    show_logits(model, beside=True)
    macs = {node: plan.macs.get(result_of(node), 0) for node in model.graph.all_nodes()}
    partitions = find_partitions(model, macs)
    lowering, scales = lowering_of(model, plan, half)
    conditions = add_branches(model, plan.points, lowering)
    not_lowered = sum(plan.macs.values()) - sum(group.macs for group in groups)
    try:
        ir.save(model, workdir / _GRAPH, external_data=_WEIGHTS, size_threshold_bytes=1024)
        proto = onnx.load(workdir / _GRAPH, load_external_data=False)
        del model, lowering, macs
        forget(graph.path)
        with load_backend("onnxruntime").in_turn(graph.runtime) as turn:
            yield SimulatorSession(plan, groups, not_lowered, partitions, workdir, proto, conditions, scales, turn)
    finally:
        for name in (_GRAPH, _WEIGHTS, _CHOSEN):
            (workdir / name).unlink(missing_ok=True)


def _positions(model: ir.Model) -> dict[str, int]:
    """Result of a node -> position of the node of the main graph that it is, or lies in."""
    main = enumerate(model.graph)
    return {result_of(each): position for position, node in main for each in (node, *nodes_inside(node))}
