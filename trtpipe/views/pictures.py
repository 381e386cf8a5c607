"""What the HTML report draws, as figures that its template lays out: engines, errors of outputs, times, histograms.

Widths and heights are percentages of the widest or highest of a drawing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.config.formats import FORMATS, FP16
from trtpipe.config.units import format_bytes, format_count
from trtpipe.report.plots import bars_of, thresholds
from trtpipe.report.precision import in_half

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.calibration.statistics import TensorStatistics
    from trtpipe.config.formats import Format
    from trtpipe.engine.record import EngineRecord
    from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor
    from trtpipe.latency.reports import Latency
    from trtpipe.passes.decisions import NodeDecision
    from trtpipe.quantization.sensitivity import Sensitivity

#: Element type of an engine -> number of its format, which has a color; other types share the last.
_COLOR = {word: number for number, form in enumerate(FORMATS) for word in form.engine}
OTHER_COLOR = len(FORMATS)
_NAMES = {word: form.name.upper() for form in FORMATS for word in form.engine}
#: Columns of a chart; more values are joined, of which the highest counts.
_MOST_COLUMNS = 240
_MOST_GROUPS = 30
_HISTOGRAM_BARS = 140


@dataclass(frozen=True)
class Kernel:
    """One fused layer of an engine.

    Attributes:
        title: the operators of its ONNX nodes, or the builder's layer type.
        color: number of the format that it computes in.
        type: that format's name.
        by_bytes, by_macs: its share of the widest kernel's, in percent.
        tensors: role, name, and type with shape, of what it reads and writes.
        nodes: what lowering decided for its ONNX nodes.
        macs: multiply-accumulates of the ONNX nodes that it multiplies for; they add up to those of the model.
        marks: what to notice: a fused attention, a Q/DQ pair that became a kernel of its own, elementwise code before
            or after the kernel that multiplies for the same ONNX nodes (prologue, epilogue).
    """

    title: str
    kind: str
    color: int
    type: str
    by_bytes: float
    by_macs: float
    bytes: str
    macs: str
    tensors: tuple[tuple[str, str, str], ...]
    nodes: tuple[NodeDecision, ...]
    marks: tuple[str, ...]


@dataclass(frozen=True)
class EnginePicture:
    """The kernels of an engine in execution order.

    Attributes:
        targets: those that have this very engine.
        legend: color, name and number of kernels of every format.
    """

    targets: tuple[str, ...]
    summary: str
    kernels: tuple[Kernel, ...]
    legend: tuple[tuple[int, str, int], ...]


@dataclass(frozen=True)
class Bar:
    """A named length.

    Attributes:
        color: number of a format; ``OTHER_COLOR`` for none.
    """

    label: str
    text: str
    length: float
    color: int = OTHER_COLOR


@dataclass(frozen=True)
class Bars:
    """Named lengths on one scale."""

    title: str
    bars: tuple[Bar, ...]
    note: str = ""


@dataclass(frozen=True)
class Columns:
    """Values in their order as upright columns, on a scale from zero.

    Attributes:
        heights: percentages of ``highest``.
        names: what each column is, for its tooltip.
        first, last: labels of the ends of the axis.
    """

    title: str
    heights: tuple[float, ...]
    names: tuple[str, ...]
    highest: str
    first: str
    last: str
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """Latencies of one artifact on inputs of one shape.

    Attributes:
        distribution: smallest, percentiles and largest, on a scale of their own.
        windows: whether the times drift; ``None`` where it was too short to see that.
        clocks: of the GPU; ``None`` where they were not read, and on a CPU.
    """

    title: str
    distribution: Bars
    windows: Columns | None
    clocks: Bars | None


@dataclass(frozen=True)
class Histogram:
    """Counts over the magnitude, on a logarithmic axis, and the thresholds of every calibration method.

    Attributes:
        points: the outline, in percent of width and height.
        lines: place in percent, name with value, and whether it is the one that was taken.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    lines: tuple[tuple[float, str, bool], ...]
    top: str


def engine_picture(targets: Sequence[str], report: EngineReport, nodes: Mapping[str, NodeDecision]) -> EnginePicture:
    """Every kernel of an engine, as the builder reports it.

    Args:
        nodes: what lowering decided for each ONNX node.
    """
    kernels = report.kernels
    moved = [_moved(layer, report.free) for layer in kernels]
    by = report.multiplying({name for name, node in nodes.items() if node.macs})
    macs = [0] * len(kernels)
    for name, number in by.items():
        macs[number] += nodes[name].macs or 0
    separate = set(report.separate)
    drawn = tuple(
        Kernel(
            title=_title(layer, nodes),
            kind=layer.kind,
            color=_COLOR.get(layer.computes_in, OTHER_COLOR),
            type=_NAMES.get(layer.computes_in, layer.computes_in),
            by_bytes=_percent(size, max(moved)),
            by_macs=_percent(work, max(macs)),
            bytes=format_bytes(size),
            macs=format_count(work) if work else "",
            tensors=tuple(_tensors(layer)),
            nodes=tuple(nodes[name] for name in layer.nodes if name in nodes),
            marks=tuple(_marks(layer, separate, [number - by[name] for name in layer.nodes if name in by])),
        )
        for number, (layer, size, work) in enumerate(zip(kernels, moved, macs, strict=True))
    )
    counts = Counter((kernel.color, kernel.type) for kernel in drawn)
    legend = tuple((color, name, count) for (color, name), count in sorted(counts.items()))
    return EnginePicture(tuple(targets), report.summary, drawn, legend)


def _moved(layer: EngineLayer, free: int) -> int:
    return sum(tensor.bytes(free) for tensor in (*layer.inputs, *layer.constants, *layer.outputs))


def _title(layer: EngineLayer, nodes: Mapping[str, NodeDecision]) -> str:
    found = dict.fromkeys(nodes[name].op for name in layer.nodes if name in nodes)
    return " + ".join(found) or layer.kind


def _tensors(layer: EngineLayer) -> list[tuple[str, str, str]]:
    def of(role: str, tensors: Sequence[EngineTensor]) -> list[tuple[str, str, str]]:
        return [
            (role, tensor.name, f"{_NAMES.get(tensor.type, tensor.type)} {'x'.join(map(str, tensor.dims)) or 'scalar'}")
            for tensor in tensors
        ]

    return [*of("reads", layer.inputs), *of("weights", layer.constants), *of("writes", layer.outputs)]


def _marks(layer: EngineLayer, separate: set[str], behind: Sequence[int]) -> list[str]:
    """What to notice of a kernel.

    Args:
        behind: how many kernels it comes after the one that multiplies, for each node of both.
    """
    found = ["fused attention"] if layer.is_attention else []
    if behind and 0 not in behind and not layer.is_conv_gemm:
        found.append("epilogue" if behind[-1] > 0 else "prologue")
    if layer.nodes and set(layer.nodes) <= separate:
        found.append("unfused Q/DQ")
    return found


def _percent(value: float, most: float) -> float:
    return round(100 * (value / most), 2) if most > 0 else 0.0


def against_half(engines: Mapping[str, EngineRecord]) -> tuple[Bars, ...]:
    """Bytes of the weights of each engine, and bytes that its kernels move, beside the same kernels in float16."""
    known = {name: (record.report, record) for name, record in engines.items() if record.report is not None}
    pairs = [(name, report, in_half(report, record)) for name, (report, record) in known.items()]
    if not pairs:
        return ()
    weights = [(name, report, report.constant_bytes, half.constant_bytes) for name, report, half in pairs]
    traffic = [(name, report, report.bytes_moved, half.bytes_moved) for name, report, half in pairs]
    reported = "reported by the builder, not measured."
    return (
        _beside_half("Weights", weights, f"Bytes of the weights that all kernels read: {reported}"),
        _beside_half("Traffic", traffic, f"Bytes that all kernels read and write, weights included: {reported}"),
    )


def _beside_half(title: str, engines: Sequence[tuple[str, EngineReport, int, int]], note: str) -> Bars:
    rows = [
        row
        for name, report, size, in_fp16 in engines
        for row in (
            (name, size, _of_most(report)),
            (f"{name}, in {FP16.name} (estimate)", in_fp16, _color_of(FP16)),
        )
    ]
    most = max(size for _, size, _ in rows)
    bars = tuple(Bar(name, format_bytes(size), _percent(size, most), color) for name, size, color in rows)
    return Bars(title, bars, note)


def _of_most(report: EngineReport) -> int:
    """The color of the format that most of an engine's Conv and GEMM layers compute in."""
    found = report.conv_gemm_types or report.precisions
    return _COLOR.get(max(found, key=lambda word: found[word]), OTHER_COLOR) if found else OTHER_COLOR


def _color_of(form: Format) -> int:
    return FORMATS.index(form)


def sensitivity_bars(found: Sensitivity) -> Bars:
    """The groups of layers whose quantization makes the most output noise."""
    ranked = found.ranked[:_MOST_GROUPS]
    most = max((group.noise for group in ranked), default=0.0)
    bars = tuple(Bar(group.name, f"{group.noise:.3g}", _percent(group.noise, most)) for group in ranked)
    left = len(found.ranked) - len(ranked)
    return Bars("Output noise, relative to the signal", bars, f"{left} more groups make less." if left else "")


def along_the_depth(found: Sensitivity) -> Columns:
    """The output noise of every group of layers, in the graph's order."""
    note = f"From {found.groups[0].name} to {found.groups[-1].name}." if found.groups else ""
    noise = [group.noise for group in found.groups]
    return columns("Output noise along the depth", noise, unit="", kind="group", first=1, note=note)


def columns(title: str, values: Sequence[float], *, unit: str, kind: str, first: int = 0, note: str = "") -> Columns:
    """Values in their order; of too many, neighbors are joined.

    Args:
        kind: what a value belongs to (``sample``), for tooltips.
        first: the number of the first one.
    """
    each = np.nan_to_num(np.asarray(values, np.float64), posinf=np.finfo(np.float64).max)
    step = max(1, -(-len(each) // _MOST_COLUMNS))
    starts = range(0, len(each), step)
    joined = [float(each[start : start + step].max()) for start in starts]
    names = []
    for start, value in zip(starts, joined, strict=True):
        last = min(start + step, len(each)) - 1
        which = (
            f"{kind} {first + start}" if last == start else f"{kind}s {first + start} to {first + last}, the highest"
        )
        names.append(f"{which}: {value:.3g}{unit}")
    most = max(joined, default=0.0)
    heights = tuple(_percent(value, most) for value in joined)
    ends = (f"{kind} {first}", f"{kind} {first + len(each) - 1}")
    return Columns(title, heights, tuple(names), f"{most:.3g}{unit}", *ends, note)


def measured(found: Latency) -> Measured:
    """One measurement."""
    values = (("min", found.min), ("median", found.median), ("p90", found.p90), ("p99", found.p99), ("max", found.max))
    times = tuple(Bar(name, f"{value:.3f} ms", _percent(value, found.max)) for name, value in values)
    windows = None
    if len(found.windows) > 1:
        windows = columns("Medians over time", found.windows, unit=" ms", kind="window", first=1)
    return Measured(f"{found.artifact}, {found.on}", Bars("Distribution", times), windows, _clocks(found))


def _clocks(found: Latency) -> Bars | None:
    """The GPU's clock, beside its highest; ``None`` where it was not read."""
    both = {"after the warm-up": found.before, "at the end": found.after}
    states = {when: state for when, state in both.items() if state is not None and state.sm_mhz is not None}
    if not states:
        return None
    read = {when: (state.sm_mhz or 0, state.max_sm_mhz or 0) for when, state in states.items()}
    most = max(max(pair) for pair in read.values())
    bars = [Bar(when, f"{clock} MHz", _percent(clock, most)) for when, (clock, _) in read.items()]
    degrees = [f"{state.temperature} °C {when}" for when, state in states.items() if state.temperature is not None]
    reasons = dict.fromkeys(reason for state in states.values() for reason in state.throttled)
    note = "; ".join((*degrees, *(f"throttled: {reason}" for reason in reasons)))
    return Bars(f"SM clock, of {most} MHz", tuple(bars), note)


def histogram(name: str, tensor: TensorStatistics, precision: Format, taken: float) -> Histogram:
    """The distribution of a calibrated tensor.

    Args:
        taken: the calibrated amax.
    """
    edges, counts = bars_of(tensor, _HISTOGRAM_BARS)
    heights = np.log10(np.maximum(counts, 0) + 1)
    heights = heights / (heights.max() or 1.0) * 100
    top = float(edges[-1])
    points = [(0.0, 100.0)]
    for left, right, height in zip(edges, edges[1:], heights, strict=False):
        y = round(100 - float(height), 2)
        points += [(_percent(float(left), top), y), (_percent(float(right), top), y)]
    cuts = thresholds(name, tensor, precision) if tensor.count and not tensor.nonfinite else {}
    lines = [(_at(amax, top), f"{method} {amax:.4g}", False) for method, amax in cuts.items()]
    lines.append((_at(taken, top), f"taken {taken:.4g}", True))
    return Histogram(name, (*points, (100.0, 100.0)), tuple(lines), f"{top:.4g}")


def _at(amax: float, top: float) -> float:
    return min(_percent(float(amax), top), 100.0)
