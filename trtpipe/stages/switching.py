"""The switched graph on disk, and opening any choice of its groups: shared by sensitivity and tuning."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from trtpipe.backends.base import load_backend
from trtpipe.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
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
_GRAPH, _WEIGHTS, _CHOSEN, _SIZES = "switched.onnx", "switched.data", "chosen.onnx", "sizes.onnx"


@dataclass(frozen=True)
class SwitchedGroup:
    """A group of nodes with one switch.

    Attributes:
        nodes: how reports and ``keep`` patterns name them.
        operators: of the nodes.
        macs: multiply-accumulates of one row of the batch.
    """

    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    macs: int


@dataclass(frozen=True)
class Switchboard:
    """A graph with switches in a work folder.

    Attributes:
        groups: in graph order.
        never: multiply-accumulates of weighted nodes that have no switch.
    """

    groups: tuple[SwitchedGroup, ...]
    never: int
    _folder: Path
    _proto: onnx.ModelProto
    _switches: tuple[str, ...]
    _settings: Settings

    @contextmanager
    def open(self, on: Collection[int]) -> Iterator[Runner]:
        """A runner of the graph in which the groups ``on`` are lowered."""
        numbers = {name: index for index, name in enumerate(self._switches)}
        for tensor in self._proto.graph.initializer:
            if tensor.name in numbers:
                tensor.ClearField("int32_data")
                tensor.raw_data = np.array(numbers[tensor.name] in on).tobytes()
        path = self._folder / _CHOSEN
        path.write_bytes(self._proto.SerializeToString())
        with load_backend("onnxruntime").open(path, self._settings) as runner:
            yield runner


def switchboard(
    simplified: Path,
    workdir: Path,
    settings: Settings,
    feed: Feed,
    amax: Mapping[str, float],
    precision: EightBit | Literal["fp16"],
    weights: WeightMethod,
    keep: tuple[str, ...],
    *,
    logits: bool,
) -> Switchboard:
    """Write the graph with a switch for every group.

    Args:
        feed: one sample, to learn sizes from.
        amax: tensor -> range; nodes whose activation has none stay as they are.
        keep: patterns of nodes that stay as they are.
        logits: whether outputs that saturate are replaced by what goes into them.

    Raises:
        StageError: there is nothing to switch.
    """
    import onnx
    import onnx_ir as ir

    from trtpipe.onnxfile import load_model
    from trtpipe.passes.clean_up import clean_up
    from trtpipe.passes.graph_pass import run_passes
    from trtpipe.passes.infer_types import InferTypes
    from trtpipe.passes.placement import place
    from trtpipe.passes.switchable import show_logits
    from trtpipe.passes.switches import add_switches, eight_bits, group_points, half

    model = load_model(simplified)
    clean_up(model)
    run_passes(model, [InferTypes()])
    everything, _ = place(model, ())
    points = [point for point in place(model, keep)[0] if amax.get(point.tensor)]
    if not points:
        raise StageError("no node of this model can be lowered, so there is nothing to choose", "see trtpipe inspect")
    groups = group_points(points)
    sizes = _macs(simplified, everything, feed, workdir, settings)
    described = tuple(_described(group, sizes) for group in groups)
    if logits:
        show_logits(model)
    switches = add_switches(model, groups, half if precision == "fp16" else eight_bits(precision, amax, weights))
    ir.save(model, workdir / _GRAPH, external_data=_WEIGHTS, size_threshold_bytes=1024)
    proto = onnx.load(workdir / _GRAPH, load_external_data=False)
    never = sum(sizes.values()) - sum(group.macs for group in described)
    return Switchboard(described, never, workdir, proto, switches, settings)


def _described(group: Group, sizes: Mapping[str, int]) -> SwitchedGroup:
    operators = tuple(dict.fromkeys(point.node.op_type for point in group.points))
    return SwitchedGroup(group.nodes, operators, sum(sizes[name] for name in group.nodes))


def _macs(simplified: Path, points: list[QuantPoint], feed: Feed, workdir: Path, settings: Settings) -> dict[str, int]:
    """Node -> multiply-accumulates of one row, from the sizes of its tensors on one feed.

    A branch that the feed does not take counts nothing.
    """
    from trtpipe.onnxfile import load_model, save_model
    from trtpipe.passes.clean_up import clean_up
    from trtpipe.passes.expose import expose
    from trtpipe.passes.graph_pass import node_label

    model = load_model(simplified)
    clean_up(model)
    tensors = {node_label(point.node): _sized(point) for point in points}
    expose(model, tuple(dict.fromkeys(tensors.values())))
    names = save_model(model, workdir / _SIZES)
    try:
        with load_backend("onnxruntime").open(workdir / _SIZES, settings) as runner:
            wanted = {spec.name for spec in runner.inputs}
            found = runner.infer({name: value for name, value in feed.items() if name in wanted})
    finally:
        for name in names:
            (workdir / name).unlink(missing_ok=True)
    rows = next((value.shape[0] for value in feed.values() if value.ndim), 1)
    sizes = {name: value.size for name, value in (found | feed).items()}
    return {
        node_label(point.node): sizes.get(tensors[node_label(point.node)], 0) * _each(point) // max(rows, 1)
        for point in points
    }


def _sized(point: QuantPoint) -> str:
    """The tensor whose elements each cost the same: the result; for a transposed convolution the activation."""
    transposed = point.node.op_type == "ConvTranspose"
    return point.tensor if transposed else str(point.node.outputs[0].name)


def _each(point: QuantPoint) -> int:
    """Multiply-accumulates for one element of that tensor."""
    kernel = point.node.inputs[point.weight]
    assert kernel is not None and kernel.const_value is not None  # noqa: PT018  placement's work
    shape = _shape(kernel.const_value)
    if point.node.op_type == "ConvTranspose":
        return math.prod(shape[1:])  # [in, out / group, ...]
    if point.node.op_type == "Conv":
        return math.prod(shape[1:])  # [out, in / group, ...]
    inner = (
        1 - point.axis if point.node.op_type == "Gemm" else (len(shape) - 2 if point.weight == 1 else len(shape) - 1)
    )
    return shape[inner]


def _shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(int(dim) for dim in tensor.shape.numpy())


def board_for(
    job: Job,
    inputs: Inputs,
    ranges: Ranges,
    workdir: Path,
    feed: Feed,
    *,
    logits: bool,
    half: bool = False,
    weights: WeightMethod | None = None,
) -> Switchboard:
    """The switched graph of a job's simplified graph; how far weights reach is the recipe's, unless given."""
    precision = cast("EightBit", job.profile.precision)
    return switchboard(
        inputs.path("simplified"),
        workdir,
        job.settings,
        feed,
        {name: found.amax for name, found in ranges.tensors.items()},
        "fp16" if half else precision,
        weights or job.recipe.weights,
        job.profile.keep,
        logits=logits,
    )


def exact_outputs(
    job: Job, inputs: Inputs, workdir: Path, dataset: Dataset, most: int
) -> tuple[list[Feed], list[Feed]]:
    """Evenly spread feeds, and what the float32 graph answers; as many as fit into memory together."""
    from trtpipe.calibration.spread import spread_feeds
    from trtpipe.onnxfile import load_model, save_model
    from trtpipe.passes.clean_up import clean_up
    from trtpipe.passes.graph_pass import run_passes
    from trtpipe.passes.infer_types import InferTypes
    from trtpipe.passes.switchable import show_logits

    feeds = spread_feeds(dataset, most, _FEED_BYTES)
    model = load_model(inputs.path("simplified"))
    clean_up(model)
    run_passes(model, [InferTypes()])
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
