"""What ``inspect`` shows of each kind of record."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from trtpipe.cli.tables import facts, table
from trtpipe.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from trtpipe import EngineFacts, Inspection, LatencyReport, Manifest, ParityReport
    from trtpipe.accuracy.reports import MetricValue
    from trtpipe.backends.plan import PlanHeader
    from trtpipe.calibration.account import DataAccount
    from trtpipe.calibration.ranges import Ranges, TensorRange
    from trtpipe.engine.report import EngineReport, EngineTensor
    from trtpipe.passes.decisions import WorkShare
    from trtpipe.passes.graph_pass import NodeDecision
    from trtpipe.profile import OptimizationProfile
    from trtpipe.report.graph import GraphSummary
    from trtpipe.report.statistics import StatisticsSummary
    from trtpipe.stages.facts import ExportFacts, LowerFacts, SimplifyFacts

#: Rows shown of a list that may be long.
_ROWS = 20
_VERDICTS = {True: "PASSED", False: "FAILED", None: "not judged"}


def sections(found: Inspection, *, detailed: bool) -> Iterator[str]:
    """The text of every section that is there.

    Args:
        detailed: long lists in full.
    """
    limit = None if detailed else _ROWS
    if found.graph is not None:
        yield from _graph(found.graph, limit)
    if found.exported is not None:
        yield from _exported(found.exported)
    if found.simplified is not None:
        yield from _simplified(found.simplified)
    if found.lowered is not None:
        yield from _lowered(found.lowered, limit)
    if found.plan is not None:
        yield _plan(found.plan)
    if found.engine is not None:
        yield from _engine(found.engine, limit)
    if found.stand_in is not None:
        yield facts([("flavour", "null: a stand-in for tests, no engine"), ("target", found.stand_in.target)])
    if found.ranges is not None:
        yield from _ranges(found.ranges, limit)
    if found.statistics is not None:
        yield from _statistics(found.statistics, limit)
    if found.parity is not None:
        yield from _parity(found.parity)
    if found.latency is not None:
        yield from _latency(found.latency)
    if found.manifest is not None:
        yield from _manifest(found.manifest)


def _graph(graph: GraphSummary, limit: int | None) -> Iterator[str]:
    weights = ", ".join(f"{format_bytes(size)} {dtype}" for dtype, size in graph.weights.items())
    yield facts(
        [
            ("opset", ", ".join(f"{domain} {version}" for domain, version in graph.opsets.items())),
            ("producer", graph.producer or "unknown"),
            ("inputs", "\n".join(map(str, graph.contract.inputs))),
            ("outputs", "\n".join(map(str, graph.contract.outputs))),
            ("weights", f"{format_bytes(graph.weight_bytes)}" + (f": {weights}" if weights else "")),
            *((("external", "\n".join(graph.external)),) if graph.external else ()),
            (
                "precision",
                f"{graph.quantize} QuantizeLinear, {graph.dequantize} DequantizeLinear, {graph.casts} Cast nodes",
            ),
            ("nodes", str(graph.nodes)),
        ]
    )
    rows = [(name, str(count)) for name, count in Counter(graph.operators).most_common()]
    yield from _limited(("operator", "count"), rows, limit, right=("count",))


def _exported(found: ExportFacts) -> Iterator[str]:
    yield facts([("exported by", found.exporter), *_notes(found.notes)])
    if found.parity:
        yield table(
            ("output", "max difference from PyTorch", "mean"),
            [(each.output, f"{each.max_abs:.3g}", f"{each.mean_abs:.3g}") for each in found.parity],
        )


def _simplified(found: SimplifyFacts) -> Iterator[str]:
    who = "onnxsim and trtpipe" if found.simplified else "trtpipe alone"
    yield facts(
        [("simplified by", f"{who}: {found.nodes_before} nodes, now {found.nodes_after}"), *_notes(found.notes)]
    )


def _lowered(found: LowerFacts, limit: int | None) -> Iterator[str]:
    counts = ", ".join(f"{count} {precision}" for precision, count in found.counts.items())
    share = [] if found.work is None else [("in 8 bits", _share(found.work))]
    yield facts([("lowered to", f"{found.precision}: {counts or 'no node was judged'}"), *share, *_notes(found.notes)])
    if found.trials:
        yield _trials(found)
    if found.nodes:
        rows = [(node.node, node.op, node.precision, node.reason) for node in found.nodes]
        yield from _limited(("node", "operator", "precision", "because"), rows, limit)


def _trials(found: LowerFacts) -> str:
    """The engines that were compared to find the cheapest placement."""
    headers = ("compared", "in int8", "kernels", "activations moved", "weights", "estimated cost")
    rows = [
        (
            trial.style or "float16",
            str(trial.nodes),
            str(trial.kernels),
            format_bytes(trial.activation_bytes),
            format_bytes(trial.weight_bytes),
            format_bytes(round(trial.cost)),
        )
        for trial in found.trials
    ]
    return table(headers, rows, right=headers[1:])


def _share(work: WorkShare) -> str:
    return (
        f"{100 * work.share:.1f} % of {format_count(work.total)} multiply-accumulates of Conv, ConvTranspose, Gemm "
        "and MatMul"
    )


def explanation(decisions: Iterable[NodeDecision]) -> str:
    """One paragraph a node."""
    return "\n\n".join(
        facts(
            [
                ("node", each.node),
                ("operator", each.op),
                ("precision", each.precision),
                ("because", each.reason),
                *([] if each.macs is None else [("work", f"{format_count(each.macs)} multiply-accumulates")]),
            ]
        )
        for each in decisions
    )


def _plan(plan: PlanHeader) -> str:
    targets = "the header does not say" if plan.targets is None else ", ".join(plan.targets) or "none"
    weights = "" if plan.weight_bytes is None else f", {format_bytes(plan.weight_bytes)} of weights"
    more = ", and GPUs yet to come" if plan.and_later else ""
    return facts([("built by", f"{plan.flavour} {plan.version}{weights}"), ("targets", targets + more)])


def _engine(engine: EngineFacts, limit: int | None) -> Iterator[str]:
    precisions = ", ".join(f"{count} {name}" for name, count in engine.precisions.items())
    yield facts(
        [
            ("engine", f"{engine.flavour} {engine.version} for {engine.target}"),
            ("inputs", "\n".join(map(str, engine.io.inputs))),
            ("outputs", "\n".join(map(str, engine.io.outputs))),
            *_profiles(engine.profiles),
            ("layers", "unknown" if engine.layers is None else f"{engine.layers}: {precisions}"),
            ("activations", "unknown" if engine.activation_bytes is None else format_bytes(engine.activation_bytes)),
            ("built in", format_seconds(engine.build_seconds)),
            *(("warning", warning) for warning in engine.warnings),
            *_notes(engine.notes),
        ]
    )
    if engine.report is not None:
        yield from _layers(engine.report, limit)


def _profiles(profiles: Sequence[OptimizationProfile]) -> Iterator[tuple[str, str]]:
    for number, profile in enumerate(profiles):
        yield (
            f"shapes {number}" if len(profiles) > 1 else "shapes",
            "\n".join(
                f"{name}: {' to '.join('x'.join(map(str, dims)) for dims in (shape.min, shape.max))}"
                f", best at {'x'.join(map(str, shape.opt))}"
                for name, shape in profile.items()
            ),
        )


def _layers(report: EngineReport, limit: int | None) -> Iterator[str]:
    yield facts([(f"from the {report.source}", report.summary)])
    headers = ("layer", "kind", "reads", "constants", "writes", "bytes written", "ONNX nodes")
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
    yield from _limited(headers, rows, limit, right=("bytes written",))


def _types(tensors: Sequence[EngineTensor]) -> str:
    return " ".join(dict.fromkeys(tensor.type for tensor in tensors))


def _ranges(ranges: Ranges, limit: int | None) -> Iterator[str]:
    unseen = (("unseen", "\n".join(ranges.unseen)),) if ranges.unseen else ()
    yield facts([("method", _method(ranges)), *_account(ranges.samples, ranges.account), *unseen, *_repairs(ranges)])
    rows = [
        (name, f"{found.amax:.6g}", _method(found), f"{found.minimum:.6g}", f"{found.maximum:.6g}", found.note)
        for name, found in ranges.tensors.items()
    ]
    yield from _limited(("tensor", "amax", "method", "min", "max", ""), rows, limit, right=("amax", "min", "max"))


def _repairs(ranges: Ranges) -> Iterator[tuple[str, str]]:
    """What was tried to lessen the output's error, and what it came to."""
    tried = [f"{trial.repair} {trial.noise:.1f} dB{' (taken)' * trial.taken}" for trial in ranges.repairs.trials]
    if tried:
        yield "repairs", "\n".join(tried)


def _method(found: Ranges | TensorRange) -> str:
    return found.method if found.percentile is None else f"{found.method} {found.percentile:g} %"


def _statistics(found: StatisticsSummary, limit: int | None) -> Iterator[str]:
    yield facts(_account(found.samples, found.account))
    rows = [
        (name, str(each.count), f"{each.zeros:.1%}", f"{each.minimum:.6g}", f"{each.maximum:.6g}", str(each.nonfinite))
        for name, each in found.tensors.items()
    ]
    headers = ("tensor", "values", "zeros", "min", "max", "not finite")
    yield from _limited(headers, rows, limit, right=headers[1:])


def _account(samples: int, account: DataAccount | None) -> list[tuple[str, str]]:
    if account is None:
        return [("samples", f"{samples} of unknown origin")]
    spans = "\n".join(f"{name}: {i.minimum:.4g} to {i.maximum:.4g}" for name, i in account.inputs.items())
    return [
        ("samples", f"{samples} from {account.source}"),
        ("inputs", spans),
        *(("warning", warning) for warning in account.warnings),
    ]


def _parity(report: ParityReport) -> Iterator[str]:
    kind = "synthetic data" if report.synthetic else "real data"
    yield facts(
        [
            ("verdict", "\n".join([_VERDICTS[report.passed], *report.reasons])),
            *((("broke at", report.broke),) if report.broke else ()),
            ("precision", report.precision),
            ("reference", report.reference),
            ("data", f"{report.samples} samples, {kind}: {report.data}"),
            *(("metric", _metric(value)) for value in report.metrics),
            *(("not run", f"{artifact}: {reason}") for artifact, reason in report.not_run.items()),
        ]
    )
    rows = [
        (
            comparison.artifact,
            comparison.against,
            output.output,
            f"{output.mean_abs:.3g}",
            f"{output.max_abs:.3g}",
            "" if output.cosine is None else f"{output.cosine:.6f}",
            f"{output.snr_db:.1f}",
            "" if output.top1_agreement is None else f"{output.top1_agreement:.2%}",
            _VERDICTS[output.passed],
            comparison.runner,
        )
        for comparison in (*report.pytorch, *report.comparisons, *report.links)
        for output in comparison.outputs
    ]
    headers = ("artifact", "against", "output", "mean", "max", "cosine", "SNR dB", "top-1 same", "verdict", "runner")
    yield table(headers, rows)


def _metric(value: MetricValue) -> str:
    others = "".join(f", {name} {figure:.4g}" for name, figure in value.others.items())
    count = f" on {value.samples}" if value.samples else ""
    return f"{value.artifact}: {value.metric} {value.value:.4f}{count}{others}, {value.runner}"


def _latency(report: LatencyReport) -> Iterator[str]:
    judged = report.max_p99 is not None and any(figure.on_gpu for figure in report.measurements)
    budget = "none" if report.max_p99 is None else f"p99 of {report.max_p99:g} ms"
    yield facts(
        [
            ("verdict", _VERDICTS[report.passed if judged else None]),
            ("budget", budget),
            ("unit", "milliseconds"),
            ("machine", ", ".join(f"{name} {value}" for name, value in report.machine.items())),
            *_notes(report.notes),
        ]
    )
    headers = ("artifact", "min", "median", "mean", "p90", "p95", "p99", "max")
    rows = [
        (
            figure.artifact,
            *(
                f"{ms:.3f}"
                for ms in (figure.min, figure.median, figure.mean, figure.p90, figure.p95, figure.p99, figure.max)
            ),
            f"{figure.throughput_qps:.1f}",
            f"{figure.cov:.1f} %",
            figure.runner if figure.on_gpu else f"{figure.runner}, not a GPU latency",
        )
        for figure in report.measurements
    ]
    yield table((*headers, "qps", "CoV", "runner"), rows, right=(*headers[1:], "qps", "CoV"))


def _manifest(manifest: Manifest) -> Iterator[str]:
    yield facts(
        [
            ("verdict", _VERDICTS[manifest.passed]),
            ("source", manifest.source),
            ("precision", manifest.precision),
            ("built by", f"trtpipe {manifest.trtpipe}, {manifest.backend}, for {', '.join(manifest.targets)}"),
            ("tools", ", ".join(f"{name} {version}" for name, version in manifest.toolchain.items())),
            *([] if manifest.work is None else [("in 8 bits", _share(manifest.work))]),
            *_calibration(manifest),
            *((verdict.gate, f"{_VERDICTS[verdict.passed]}: {verdict.summary}") for verdict in manifest.verdicts),
            *_notes(manifest.notes),
        ]
    )
    rows = [
        (entry.label, file.name, format_bytes(file.size), file.sha256[:12])
        for entry in manifest.artifacts
        for file in entry.files
    ]
    yield table(("artifact", "file", "size", "sha256"), rows, right=("size",))


def _calibration(manifest: Manifest) -> list[tuple[str, str]]:
    account = manifest.calibration
    return [] if account is None else [("calibration", f"{account['samples']} samples from {account['source']}")]


def _notes(notes: tuple[str, ...]) -> list[tuple[str, str]]:
    return [("note", note) for note in notes]


def _limited(
    headers: Sequence[str], rows: Sequence[Sequence[str]], limit: int | None, right: Sequence[str] = ()
) -> Iterator[str]:
    yield table(headers, rows[:limit], right=right)
    if limit is not None and len(rows) > limit:
        yield f"... and {len(rows) - limit} more: --verbose shows all"
