"""The switched graph on disk: what ``auto`` compares ranges on, and ``sensitivity`` groups of layers."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.backends.base import OpensInTurn, load_backend
from trtpipe.passes.graph_pass import node_label
from trtpipe.quantization.graph_partition import find_cuts, nodes_inside

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    import onnx
    import onnx_ir as ir

    from trtpipe.artifact import Feed
    from trtpipe.backends.base import OpenRunner
    from trtpipe.calibration.ranges import Ranges
    from trtpipe.config.formats import Format
    from trtpipe.config.settings import Settings
    from trtpipe.config.stage_settings import QuantizationSettings
    from trtpipe.quantization.graph_partition import Cut
    from trtpipe.quantization.plan import Placement
    from trtpipe.quantization.simulation_graph import Group, Lowering

_GRAPH, _WEIGHTS, _CHOSEN = "switched.onnx", "switched.data", "chosen.onnx"


@dataclass(frozen=True)
class SwitchedGroup:
    """Nodes that flip together.

    Attributes:
        nodes: how reports and ``keep`` patterns name them.
        operators: of the nodes.
        macs: multiply-accumulates at the typical shapes.
        first: position of the first of them among the nodes of the main graph.
    """

    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    macs: int
    first: int


@dataclass(frozen=True)
class Switchboard:
    """A graph with a switch for every node, and an input for every scale, in a work folder.

    Attributes:
        groups: in graph order; none where nothing can be lowered.
        amax: tensor -> the range it was built with.
        never: multiply-accumulates of weighted nodes that have no switch.
        cuts: where the graph can begin for groups that lie behind.
    """

    groups: tuple[SwitchedGroup, ...]
    amax: Mapping[str, float]
    never: int
    cuts: tuple[Cut, ...]
    _folder: Path
    _proto: onnx.ModelProto
    _switches: Mapping[str, str]
    _scales: Mapping[str, str]
    _largest: float
    _runtime: Settings

    def scales(self, amax: Mapping[str, float]) -> Feed:
        """What to feed for these ranges; of tensors that share a scale the largest counts, as in lowering."""
        from trtpipe.quantization.weights import safe_scale

        joint: dict[str, float] = {}
        for tensor, name in self._scales.items():
            joint[name] = max(amax[tensor], joint.get(name, 0.0))
        return {name: np.asarray(safe_scale(np.float32(limit), self._largest)) for name, limit in joint.items()}

    @property
    def weight_bytes(self) -> int:
        """Size of both sets of weights, as far as they lie beside the graph."""
        path = self._folder / _WEIGHTS
        return path.stat().st_size if path.exists() else 0

    @contextmanager
    def open(self) -> Iterator[Desk]:
        """Where the graph runs, with one choice of groups after another."""
        backend = load_backend("onnxruntime")
        assert isinstance(backend, OpensInTurn)
        with backend.in_turn(self._runtime) as turn:
            yield Desk(self, turn)

    def choose(self, groups: Collection[int], begin: Cut | None, show: Collection[str]) -> Path:
        """The graph in which just these groups are lowered, in a file that the next choice writes over."""
        import onnx

        from trtpipe.quantization.graph_partition import behind
        from trtpipe.quantization.simulation_graph import resolve

        nodes = frozenset(node for index in groups for node in self.groups[index].nodes)
        on = [switch for node, switch in self._switches.items() if node in nodes]
        chosen = resolve(self._proto, self._switches.values(), on)
        for name in show:
            chosen.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        path = self._folder / _CHOSEN
        path.write_bytes((chosen if begin is None else behind(chosen, begin)).SerializeToString())
        return path

    def close(self) -> None:
        """Remove the files."""
        for name in (_GRAPH, _WEIGHTS, _CHOSEN):
            (self._folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Desk:
    """A switchboard that is open: one choice of groups runs at a time, all in one child process.

    Attributes:
        board: the graph.
        turn: opens a file in place of the one before.
    """

    board: Switchboard
    turn: Callable[[Path], OpenRunner]

    def set(self, groups: Collection[int], *, begin: Cut | None = None, show: Collection[str] = ()) -> OpenRunner:
        """A runner of the graph in which just these groups are lowered, good until the next choice.

        Args:
            begin: take the values of this cut as inputs; no group may lie before it.
            show: values to give as outputs too.
        """
        return self.turn(self.board.choose(groups, begin, show))


def switchboard(
    settings: QuantizationSettings,
    simplified: Path,
    ranges: Ranges,
    precision: Format,
    workdir: Path,
    runtime: Settings,
) -> Switchboard:
    """Write the graph with its switches, corrected as ``ranges`` says; outputs that saturate give way to their inputs.

    Nodes that read a tensor without a range stay as they are.

    Args:
        precision: what switched nodes are lowered to: the quantized format of ``settings``, or one of 16 bits.
    """
    import onnx
    import onnx_ir as ir

    from trtpipe.autocast.half_precision import left_in_half
    from trtpipe.passes.logits import show_logits
    from trtpipe.passes.macs import sizes_of, work_of
    from trtpipe.quantization.apply_corrections import apply_corrections
    from trtpipe.quantization.mac_count import count_work
    from trtpipe.quantization.plan import place
    from trtpipe.quantization.simulation_graph import add_switches, group_points
    from trtpipe.reference.reference_outputs import forget, plain_form

    model = plain_form(simplified)
    count_work(model, simplified, settings.shapes, runtime)
    keep, left = settings.keep, left_in_half(model, settings.int8_nodes)
    smoothing = ranges.corrections.model_copy(update={"biases": {}})
    amax = apply_corrections(model, ranges, smoothing, keep, left)
    placement = _with_ranges(place(model, (*keep, *left), left=ranges.corrections.high), amax)
    sizes = sizes_of(model, settings.shapes)
    works = {node: work.macs for node in model.graph.all_nodes() if (work := work_of(node, sizes)) is not None}
    positions = _positions(model)
    groups = tuple(_described(group, works, positions) for group in group_points(placement))
    show_logits(model)
    cuts = find_cuts(model, works)
    lowering, scales, largest = _lowering(settings, model, placement, ranges, precision)
    switches = add_switches(model, placement.points, lowering)
    ir.save(model, workdir / _GRAPH, external_data=_WEIGHTS, size_threshold_bytes=1024)
    proto = onnx.load(workdir / _GRAPH, load_external_data=False)
    never = sum(works.values()) - sum(group.macs for group in groups)
    del model, placement, lowering, works, positions
    forget(simplified)
    return Switchboard(groups, amax, never, cuts, workdir, proto, switches, scales, largest, runtime)


def _lowering(
    settings: QuantizationSettings, model: ir.Model, placement: Placement, ranges: Ranges, precision: Format
) -> tuple[Lowering, dict[str, str], float]:
    """How nodes are lowered, the inputs that take scales, and the largest value of the format."""
    from trtpipe.calibration.corrections import unpacked
    from trtpipe.quantization.bias_correction import correctable
    from trtpipe.quantization.simulation_graph import eight_bits, rounded_to, scale_inputs

    if not precision.quantized:
        return rounded_to(precision), {}, 1.0
    known = correctable(model, placement)
    shifts = {name: unpacked(text) for name, text in ranges.corrections.biases.items() if name in known}
    inputs = scale_inputs(model, placement)
    names = {tensor: str(value.name) for tensor, value in inputs.items()}
    return eight_bits(precision, inputs, settings.weights, shifts), names, precision.largest


def _with_ranges(placement: Placement, amax: Mapping[str, float]) -> Placement:
    points = tuple(point for point in placement.points if all(amax.get(name) for name in point.tensors))
    left = {name for point in points for name in point.tensors}
    groups = tuple(tuple(name for name in group if name in left) for group in placement.groups)
    return replace(placement, points=points, groups=tuple(group for group in groups if len(group) > 1))


def _positions(model: ir.Model) -> dict[ir.Node, int]:
    """Node -> position of the node of the main graph that it is, or lies in."""
    found: dict[ir.Node, int] = {}
    for position, node in enumerate(model.graph):
        found |= dict.fromkeys((node, *nodes_inside(node)), position)
    return found


def _described(group: Group, works: Mapping[ir.Node, int], positions: Mapping[ir.Node, int]) -> SwitchedGroup:
    nodes = [point.node for point in group.points]
    return SwitchedGroup(
        tuple(map(node_label, nodes)),
        tuple(dict.fromkeys(node.op_type for node in nodes)),
        sum(works.get(node, 0) for node in nodes),
        min(positions[node] for node in nodes),
    )
