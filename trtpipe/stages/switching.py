"""The switched graph on disk, and opening any choice of its groups: shared by sensitivity and tuning."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from glob import escape
from typing import TYPE_CHECKING, Literal

import numpy as np

from trtpipe.backends.base import load_backend
from trtpipe.errors import StageError
from trtpipe.passes.graph_pass import node_label
from trtpipe.profile import EIGHT_BIT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    import onnx
    import onnx_ir as ir

    from trtpipe.backends.base import Feed, Runner
    from trtpipe.calibration.dataset import Dataset
    from trtpipe.calibration.quantiser import EightBit
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.job import Inputs, Job
    from trtpipe.passes.placement import QuantPoint
    from trtpipe.passes.switches import Group
    from trtpipe.recipe import WeightMethod
    from trtpipe.settings import Settings

#: Bytes of feeds, and of the outputs they give, that are held at most.
_FEED_BYTES, _OUTPUT_BYTES = 256 << 20, 256 << 20
_GRAPH, _WEIGHTS, _CHOSEN = "switched.onnx", "switched.data", "chosen.onnx"


@dataclass(frozen=True)
class SwitchedGroup:
    """Nodes that flip together.

    Attributes:
        nodes: how reports and ``keep`` patterns name them.
        operators: of the nodes.
        macs: multiply-accumulates at the typical shapes.
    """

    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    macs: int


@dataclass(frozen=True)
class Switchboard:
    """A graph with a switch for every node, in a work folder.

    Attributes:
        groups: in graph order.
        never: multiply-accumulates of weighted nodes that have no switch.
    """

    groups: tuple[SwitchedGroup, ...]
    never: int
    _folder: Path
    _proto: onnx.ModelProto
    _switches: Mapping[str, str]
    _settings: Settings
    _plan: Callable[[tuple[str, ...]], frozenset[str]]

    @contextmanager
    def open(self, groups: Collection[int]) -> Iterator[Runner]:
        """A runner of the graph in which just these groups are lowered."""
        nodes = frozenset(node for index in groups for node in self.groups[index].nodes)
        with self._opened(nodes) as runner:
            yield runner

    @contextmanager
    def without(self, kept: Collection[int]) -> Iterator[Runner]:
        """A runner of what lowering makes if these groups are kept: the placement is asked again, because a node may
        be in 8 bits only for the sake of another.
        """
        patterns = tuple(escape(node) for index in kept for node in self.groups[index].nodes)
        with self._opened(self._plan(patterns)) as runner:
            yield runner

    @contextmanager
    def _opened(self, nodes: frozenset[str]) -> Iterator[Runner]:
        on = {switch for node, switch in self._switches.items() if node in nodes}
        switches = frozenset(self._switches.values())
        for tensor in self._proto.graph.initializer:
            if tensor.name in switches:
                tensor.ClearField("int32_data")
                tensor.raw_data = np.array(tensor.name in on).tobytes()
        path = self._folder / _CHOSEN
        path.write_bytes(self._proto.SerializeToString())
        with load_backend("onnxruntime").open(path, self._settings) as runner:
            yield runner


def switchboard(
    job: Job,
    simplified: Path,
    workdir: Path,
    amax: Mapping[str, float],
    precision: EightBit | Literal["fp16"],
    weights: WeightMethod,
    *,
    logits: bool,
) -> Switchboard:
    """Write the graph with its switches.

    Args:
        amax: tensor -> range; nodes that read a tensor without one stay as they are.
        logits: whether outputs that saturate are replaced by what goes into them.

    Raises:
        StageError: there is nothing to switch.
    """
    import onnx
    import onnx_ir as ir

    from trtpipe.passes.macs import sizes_of, work_of
    from trtpipe.passes.placement import place
    from trtpipe.passes.scale_groups import joint_amax
    from trtpipe.passes.switchable import show_logits
    from trtpipe.passes.switches import add_switches, eight_bits, group_points, half

    model = plain_form(simplified)
    placement = place(model, job.profile.keep)
    joint = joint_amax(amax, placement.groups)
    placement = replace(placement, points=_with_ranges(placement.points, joint))
    if not placement.points:
        raise StageError("no node of this model can be lowered, so there is nothing to choose", "see trtpipe inspect")
    sizes = sizes_of(model, job.opt_shapes)
    works = {node: work.macs for node in model.graph.all_nodes() if (work := work_of(node, sizes)) is not None}
    groups = tuple(_described(group, works) for group in group_points(placement))
    if logits:
        show_logits(model)
    lowering = half if precision == "fp16" else eight_bits(precision, joint, weights)
    switches = add_switches(model, placement.points, lowering)
    ir.save(model, workdir / _GRAPH, external_data=_WEIGHTS, size_threshold_bytes=1024)
    proto = onnx.load(workdir / _GRAPH, load_external_data=False)
    never = sum(works.values()) - sum(group.macs for group in groups)

    def plan(kept: tuple[str, ...]) -> frozenset[str]:
        again = place(plain_form(simplified), (*job.profile.keep, *kept))
        return frozenset(node_label(point.node) for point in _with_ranges(again.points, joint))

    return Switchboard(groups, never, workdir, proto, switches, job.settings, plan)


def plain_form(simplified: Path) -> ir.Model:
    """The simplified graph as lowering sees it before it changes anything."""
    from trtpipe.onnxfile import load_model
    from trtpipe.passes.clean_up import clean_up
    from trtpipe.passes.graph_pass import run_passes
    from trtpipe.passes.infer_types import InferTypes

    model = load_model(simplified)
    clean_up(model)
    run_passes(model, [InferTypes()])
    return model


def _with_ranges(points: tuple[QuantPoint, ...], amax: Mapping[str, float]) -> tuple[QuantPoint, ...]:
    return tuple(point for point in points if all(amax.get(name) for name in point.tensors))


def _described(group: Group, works: Mapping[ir.Node, int]) -> SwitchedGroup:
    operators = tuple(dict.fromkeys(point.node.op_type for point in group.points))
    return SwitchedGroup(group.nodes, operators, sum(works.get(point.node, 0) for point in group.points))


def board_for(
    job: Job,
    inputs: Inputs,
    ranges: Ranges,
    workdir: Path,
    *,
    logits: bool,
    half: bool = False,
    weights: WeightMethod | None = None,
) -> Switchboard:
    """The switched graph of a job's simplified graph; how far weights reach is the recipe's, unless given."""
    return switchboard(
        job,
        inputs.path("simplified"),
        workdir,
        {name: found.amax for name, found in ranges.tensors.items()},
        "fp16" if half else EIGHT_BIT[job.profile.precision],
        weights or job.recipe.weights,
        logits=logits,
    )


def exact_outputs(
    job: Job, inputs: Inputs, workdir: Path, dataset: Dataset, most: int
) -> tuple[list[Feed], list[Feed]]:
    """Evenly spread feeds, and what the float32 graph answers; as many as fit into memory together."""
    from trtpipe.calibration.spread import spread_feeds
    from trtpipe.onnxfile import save_model
    from trtpipe.passes.switchable import show_logits

    feeds = spread_feeds(dataset, most, _FEED_BYTES)
    model = plain_form(inputs.path("simplified"))
    show_logits(model)
    names = save_model(model, workdir / "exact.onnx")
    del model
    expected: list[Feed] = []
    held = 0
    with load_backend("onnxruntime").open(workdir / "exact.onnx", job.settings) as runner:
        wanted = {spec.name for spec in runner.inputs}
        for feed in feeds:
            expected.append(runner.infer({name: value for name, value in feed.items() if name in wanted}))
            held += sum(value.nbytes for value in expected[-1].values())
            if held > _OUTPUT_BYTES:
                break
    for name in names:
        (workdir / name).unlink()
    return feeds[: len(expected)], expected
