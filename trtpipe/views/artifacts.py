"""Layout of artifacts: graphs and programs, calibration, engines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from trtpipe.config.formats import FP32
from trtpipe.config.units import format_bytes, format_count, format_seconds
from trtpipe.views.blocks import Block, Table, metadata, notes, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from trtpipe.backends.engine_file import PlanHeader
    from trtpipe.calibration.data_summary import DataSummary
    from trtpipe.calibration.ranges import Ranges, TensorRange
    from trtpipe.config.formats import Precision
    from trtpipe.config.profile import OptimizationProfile
    from trtpipe.engine.record import EngineRecord, ProgramRecord
    from trtpipe.engine.report import EngineReport, EngineTensor
    from trtpipe.passes.decisions import NodeDecision, WorkShare
    from trtpipe.report.graph import GraphSummary
    from trtpipe.report.program import ProgramSummary
    from trtpipe.report.stage_records import ExportRecord, LowerRecord, SimplifyRecord
    from trtpipe.report.statistics import StatisticsSummary


def graph(found: GraphSummary, limit: int | None) -> Iterator[Block]:
    """An ONNX file."""
    weights = ", ".join(f"{format_bytes(size)} {dtype}" for dtype, size in found.weights.items())
    yield metadata(
        [
            ("opset", ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())),
            ("producer", found.producer or "unknown"),
            ("inputs", "\n".join(map(str, found.contract.inputs))),
            ("outputs", "\n".join(map(str, found.contract.outputs))),
            ("weights", f"{format_bytes(found.weight_bytes)}" + (f": {weights}" if weights else "")),
            ("external", "\n".join(found.external)),
            (
                "precision",
                f"{found.quantize} QuantizeLinear, {found.dequantize} DequantizeLinear, {found.casts} Cast nodes",
            ),
            ("nodes", str(found.nodes)),
        ]
    )
    yield _operators(found.operators, limit)


def program(found: ProgramSummary, limit: int | None) -> Iterator[Block]:
    """A ``.pt2`` file."""
    weights = format_bytes(found.weight_bytes)
    yield metadata([("written by", f"torch {found.torch}"), ("weights", weights), ("nodes", str(found.nodes))])
    yield _operators(found.operators, limit)


def captured(found: ProgramRecord) -> Iterator[Block]:
    """A PyTorch program that trtpipe exported."""
    yield metadata(
        [
            ("exported by", found.exporter),
            ("precision", found.precision),
            ("inputs", "\n".join(map(str, found.contract.inputs))),
            ("outputs", "\n".join(map(str, found.contract.outputs))),
        ]
    )


def _operators(found: Mapping[str, int], limit: int | None) -> Table:
    rows = [(name, str(count)) for name, count in Counter(found).most_common()]
    return table(("operator", "count"), rows, right=("count",), limit=limit)


def exported(found: ExportRecord) -> Iterator[Block]:
    """An exported graph: its exporter, and its difference from PyTorch."""
    yield metadata([("exported by", found.exporter), *notes(found.notes)])
    if found.parity:
        yield table(
            ("output", "max difference from PyTorch", "mean"),
            [(each.output, f"{each.max_abs:.3g}", f"{each.mean_abs:.3g}") for each in found.parity],
        )


def simplified(found: SimplifyRecord) -> Iterator[Block]:
    """A simplified graph."""
    tools = "onnxsim and trtpipe" if found.simplified else "trtpipe only"
    yield metadata(
        [("simplified by", f"{tools}: {found.nodes_before} -> {found.nodes_after} nodes"), *notes(found.notes)]
    )


def lowered(found: LowerRecord, limit: int | None) -> Iterator[Block]:
    """A lowered graph: the precision of every node."""
    counts = ", ".join(f"{count} {precision}" for precision, count in found.counts.items())
    yield metadata(
        [
            ("lowered to", f"{found.precision}: {counts or 'no node in scope'}"),
            *coverage(found.precision, found.work),
            *(("warning", warning) for warning in found.warnings),
            *notes(found.notes),
        ]
    )
    if found.trials:
        yield _trials(found)
    if found.nodes:
        rows = [(node.node, node.op, node.precision, node.reason) for node in found.nodes]
        yield table(("node", "operator", "precision", "reason"), rows, limit=limit)


def _trials(found: LowerRecord) -> Table:
    """The engines that the engine search compared."""
    form = found.precision.quantized_format.name.upper()
    headers = ("candidate", "target", f"{form} nodes", "kernels", "activation traffic", "weights", "estimated cost")
    rows = [
        (
            trial.style or (found.precision.half or FP32).storage,
            trial.target,
            str(trial.nodes),
            str(trial.kernels),
            format_bytes(trial.activation_bytes),
            format_bytes(trial.weight_bytes),
            format_bytes(round(trial.cost)),
        )
        for trial in found.trials
    ]
    return table(headers, rows, right=headers[2:])


def coverage(precision: Precision, work: WorkShare | None) -> list[tuple[str, str]]:
    """The share of the multiply-accumulates of Conv, ConvTranspose, Gemm, MatMul and recurrent layers in 8 bits."""
    if work is None:
        return []
    form = precision.quantized_format.name.upper()
    if not work.total:
        return [(f"{form} coverage", "none: there is no Conv, ConvTranspose, Gemm, MatMul or recurrent layer")]
    reached = f"; {100 * work.share_reached:.1f} % of those that calibration samples reached" if work.unreached else ""
    share = f"{100 * work.share:.1f} % of {format_count(work.total)} MACs{reached}"
    return [(f"{form} coverage", share)]


def explanation(decisions: Iterable[NodeDecision]) -> Iterator[Block]:
    """One block a node."""
    for each in decisions:
        yield metadata(
            [
                ("node", each.node),
                ("operator", each.op),
                ("precision", each.precision),
                ("reason", each.reason),
                ("MACs", "" if each.macs is None else format_count(each.macs)),
            ]
        )


def ranges(found: Ranges, limit: int | None) -> Iterator[Block]:
    """The range of every tensor, and its calibration method."""
    tried = [
        f"{trial.correction} {trial.noise:.1f} dB{' (applied)' * trial.taken}" for trial in found.corrections.trials
    ]
    yield metadata(
        [
            ("method", _method(found)),
            *data_summary(found.samples, found.data_summary),
            ("no values", "\n".join(found.unseen)),
            ("not quantizable", "\n".join(found.not_quantizable.values())),
            ("corrections", "\n".join(tried)),
        ]
    )
    rows = [
        (name, f"{each.amax:.6g}", _method(each), f"{each.minimum:.6g}", f"{each.maximum:.6g}", each.note)
        for name, each in found.tensors.items()
    ]
    yield table(("tensor", "amax", "method", "min", "max", ""), rows, right=("amax", "min", "max"), limit=limit)


def _method(found: Ranges | TensorRange) -> str:
    return found.method if found.percentile is None else f"{found.method} {found.percentile:g} %"


def statistics(found: StatisticsSummary, limit: int | None) -> Iterator[Block]:
    """The statistics of every tensor."""
    yield metadata(data_summary(found.samples, found.data_summary))
    rows = [
        (name, str(each.count), f"{each.zeros:.1%}", f"{each.minimum:.6g}", f"{each.maximum:.6g}", str(each.nonfinite))
        for name, each in found.tensors.items()
    ]
    headers = ("tensor", "values", "zeros", "min", "max", "NaN or infinite")
    yield table(headers, rows, right=headers[1:], limit=limit)


def data_summary(samples: int, found: DataSummary | None) -> list[tuple[str, str]]:
    """The calibration data."""
    if found is None:
        return [("samples", f"{samples}, source unknown")]
    spans = "\n".join(f"{name}: {i.minimum:.4g} to {i.maximum:.4g}" for name, i in found.inputs.items())
    return [
        ("samples", f"{samples} from {found.source}"),
        ("inputs", spans),
        *(("warning", warning) for warning in found.warnings),
    ]


def plan(found: PlanHeader, obstacles: Sequence[str]) -> Iterator[Block]:
    """The header of an engine file."""
    from trtpipe.engine.record import runtime_of

    targets = "not in the header" if found.targets is None else ", ".join(found.targets) or "none"
    weights = "" if found.weight_bytes is None else f", {format_bytes(found.weight_bytes)} of weights"
    more = ", and newer GPUs" if found.and_later else ""
    fits = [("incompatible", reason) for reason in obstacles] or [("compatible", "with this machine, by its header")]
    yield metadata(
        [
            ("built by", f"{found.flavor} {found.version}{weights}"),
            ("runtime", runtime_of(found.flavor)),
            ("targets", targets + more),
            *fits,
        ]
    )


def engine(found: EngineRecord, limit: int | None) -> Iterator[Block]:
    """Engine metadata, layer by layer."""
    from trtpipe.engine.record import runtime_of

    precisions = ", ".join(f"{count} {name}" for name, count in found.precisions.items())
    yield metadata(
        [
            ("engine", f"{found.flavor} {found.version} for {found.target}"),
            ("runtime", runtime_of(found.flavor)),
            ("built from", f"graph {found.digests['lowered'][:12]}" if "lowered" in found.digests else ""),
            ("options", _options(found)),
            ("inputs", "\n".join(map(str, found.io.inputs))),
            ("outputs", "\n".join(map(str, found.io.outputs))),
            *_profiles(found.profiles),
            ("layers", "unknown" if found.layers is None else f"{found.layers}: {precisions}"),
            ("activations", "unknown" if found.activation_bytes is None else format_bytes(found.activation_bytes)),
            ("build time", format_seconds(found.build_seconds)),
            *(("warning", warning) for warning in found.warnings),
            *notes(found.notes),
        ]
    )
    if found.report is not None:
        yield from _layers(found.report, limit)


def _profiles(profiles: Sequence[OptimizationProfile]) -> Iterator[tuple[str, str]]:
    for number, profile in enumerate(profiles):
        yield (
            f"shapes {number}" if len(profiles) > 1 else "shapes",
            "\n".join(
                f"{name}: {' to '.join('x'.join(map(str, dims)) for dims in (shape.min, shape.max))}"
                f", opt {'x'.join(map(str, shape.opt))}"
                for name, shape in profile.items()
            ),
        )


def _options(found: EngineRecord) -> str:
    """Build options other than the defaults."""
    asked = {} if found.options is None else found.options.model_dump(mode="json", exclude_defaults=True)
    return ", ".join(f"{name} {value}" for name, value in asked.items())


def _layers(report: EngineReport, limit: int | None) -> Iterator[Block]:
    yield metadata([(f"from the {report.source}", report.summary)])
    headers = ("layer", "type", "inputs", "constants", "outputs", "bytes written", "ONNX nodes")
    rows = [
        (
            layer.name,
            layer.kind,
            _types(layer.inputs),
            _types(layer.constants),
            _types(layer.outputs),
            format_bytes(sum(tensor.bytes(report.free) for tensor in layer.outputs)),
            ", ".join(layer.nodes),
        )
        for layer in report.kernels
    ]
    yield table(headers, rows, right=("bytes written",), limit=limit)


def _types(tensors: Sequence[EngineTensor]) -> str:
    return " ".join(dict.fromkeys(tensor.type for tensor in tensors))
