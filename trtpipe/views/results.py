"""Layout of results: verification, latency, the manifest, and everything that ``inspect`` finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.config.units import format_bytes
from trtpipe.views import artifacts, searches
from trtpipe.views.blocks import SOME, VERDICTS, Block, Table, metadata, notes, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trtpipe.accuracy.reports import MetricValue, ParityReport
    from trtpipe.api.inspection import Inspection
    from trtpipe.engine.record import EngineFigures
    from trtpipe.latency.reports import Latency, LatencyComparison, LatencyReport, Times
    from trtpipe.report.manifest import Manifest
    from trtpipe.report.verdict import Gate

_HEADERS = ("min", "median", "mean", "p90", "p95", "p99", "max")
#: The parts of a GPU latency, in trtexec's words.
_PARTS = {
    "gpu_compute": "GPU compute",
    "enqueue": "enqueue",
    "h2d": "H2D",
    "d2h": "D2H",
    "end_to_end": "end to end, through Polygraphy",
}


def sections(found: Inspection, *, detailed: bool) -> Iterator[Block]:
    """The sections of a file.

    Args:
        detailed: whether long lists are shown in full.
    """
    limit = None if detailed else SOME
    yield from artifacts.graph(found.graph, limit) if found.graph else ()
    yield from artifacts.program(found.program, limit) if found.program else ()
    yield from artifacts.captured(found.captured) if found.captured else ()
    yield from artifacts.exported(found.exported) if found.exported else ()
    yield from artifacts.simplified(found.simplified) if found.simplified else ()
    yield from artifacts.lowered(found.lowered, limit) if found.lowered else ()
    yield from artifacts.plan(found.plan, found.obstacles) if found.plan else ()
    yield from artifacts.engine(found.engine, limit) if found.engine else ()
    if found.stand_in is not None:
        yield metadata([("flavor", "null: a placeholder engine, for tests only"), ("target", found.stand_in.target)])
    yield from artifacts.ranges(found.ranges, limit) if found.ranges else ()
    yield from artifacts.statistics(found.statistics, limit) if found.statistics else ()
    if found.altered:  # what it says of itself does not count
        yield metadata([("verdict", "\n".join([f"{VERDICTS[False]}: changed since the build", *found.altered]))])
    yield from parity(found.parity, altered=bool(found.altered)) if found.parity else ()
    yield from latency(found.latency) if found.latency else ()
    yield from comparison(found.comparison) if found.comparison else ()
    yield from manifest(found.manifest, altered=bool(found.altered)) if found.manifest else ()
    yield from searches.baseline(found.baseline) if found.baseline else ()
    yield from searches.tuning(found.tuning, limit) if found.tuning else ()
    yield from searches.sensitivity(found.sensitivity, limit) if found.sensitivity else ()
    if found.contents:
        yield metadata(found.contents.items())


def parity(report: ParityReport, *, altered: bool = False) -> Iterator[Block]:
    """Parity of every artifact with its reference.

    Args:
        altered: leave out all verdicts: that of the whole, and those of single outputs.
    """
    kind = "synthetic data" if report.synthetic else "real data"
    yield metadata(
        [
            ("verdict", "" if altered else "\n".join([_accuracy(report), *report.reasons])),
            ("first failing stage", report.failing_stage),
            ("precision", report.precision),
            ("reference", report.reference),
            ("data", f"{report.samples} samples{report.extent}, {kind}: {report.data}"),
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
            "" if output.agreement is not None else f"{output.snr_db:.1f}",
            _share(output.top1_agreement),
            _share(output.agreement),
            "" if altered else VERDICTS[None if report.synthetic and output.passed else output.passed],
            comparison.runner,
        )
        for comparison in (*report.pytorch, *report.comparisons, *report.links)
        for output in comparison.outputs
    ]
    differences = ("mean", "max", "cosine", "SNR dB", "top-1 agreement", "exact match")
    yield table(("artifact", "against", "output", *differences, "verdict", "runner"), rows)


def _accuracy(report: ParityReport) -> str:
    """Random samples never show that outputs are within tolerance, only that they are not."""
    return f"{VERDICTS[None]} on real data" if report.synthetic and report.passed else VERDICTS[report.passed]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _metric(value: MetricValue) -> str:
    others = "".join(f", {name} {figure:.4g}" for name, figure in value.others.items())
    count = f" on {value.samples}" if value.samples else ""
    return f"{value.artifact}: {value.metric} {value.value:.4f}{count}{others}, {value.runner}"


def manifest(found: Manifest, *, altered: bool = False) -> Iterator[Block]:
    """The verdict, the build and its files.

    Args:
        altered: leave out the verdict of the whole.
    """
    data, verdict = found.calibration, found.verdict
    yield metadata(
        [
            ("verdict", "" if altered else verdict.headline),
            ("source", found.source),
            ("precision", found.precision),
            ("built by", f"trtpipe {found.trtpipe}, {found.backend}, for {', '.join(found.targets)}"),
            ("runtime", verdict.runtime),
            ("tools", ", ".join(f"{name} {version}" for name, version in found.toolchain.items())),
            *artifacts.coverage(found.precision, found.work),
            ("calibration", "" if data is None else f"{data.samples} samples from {data.source}"),
            *(() if altered else (("accuracy", _gate(verdict.accuracy)), ("latency", _gate(verdict.latency)))),
            *notes(remark for remark in verdict.remarks if remark != verdict.runtime),
            *notes(found.notes),
        ]
    )
    rows = [
        (entry.label, file.name, format_bytes(file.size), file.sha256[:12])
        for entry in found.artifacts
        for file in entry.files
    ]
    yield table(("artifact", "file", "size", "sha256"), rows, right=("size",))


def _gate(gate: Gate) -> str:
    from trtpipe.report.verdict import WORDS

    return f"{WORDS[gate.outcome]}: {gate.summary}"


def latency(report: LatencyReport) -> Iterator[Block]:
    """A ``latency.json``."""
    yield metadata(
        [
            ("unit", "milliseconds"),
            ("machine", _machine(report.machine)),
            *notes(report.notes),
            *(("note", f"{each.artifact}, {each.on}: {note}") for each in report.measurements for note in each.notes),
        ]
    )
    rows = [row for figure in report.measurements for row in _rows(figure)]
    headers = ("artifact", "shapes", *_HEADERS, "CoV", "qps", "stable", "runner")
    yield table(headers, rows, right=(*_HEADERS, "CoV", "qps"))
    if report.engines:
        yield _engines(report.engines)


def comparison(found: LatencyComparison) -> Iterator[Block]:
    """Two engines or graphs, measured alternately."""
    yield metadata(
        [
            ("old", found.old),
            ("new", found.new),
            ("runner", found.runner),
            ("machine", _machine(found.machine)),
            *notes(found.notes),
        ]
    )
    if found.pairs:
        headers = ("shapes", "old ms", "new ms", "new / old", f"{found.pairs[0].confidence:.0%} interval", "faster")
        rows = [
            (
                pair.on,
                f"{pair.old:.4g}",
                f"{pair.new:.4g}",
                f"{pair.ratio:.3f}",
                f"{pair.low:.3f} to {pair.high:.3f}",
                pair.faster or "not significant",
            )
            for pair in found.pairs
        ]
        yield table(headers, rows, right=headers[1:5])
    if found.engines:
        yield _engines(found.engines)


def _rows(measured: Latency) -> Iterator[tuple[str, ...]]:
    """The latency, then its parts."""
    runner = measured.runner if measured.on_gpu else f"{measured.runner}, not a GPU latency"
    counts = (f"{measured.throughput_qps:.1f}", "yes" if measured.stable else "NO", runner)
    yield (measured.artifact, measured.on, *_times(measured), *counts)
    for name, times in measured.parts.items():
        yield (f"  {_PARTS.get(name, name)}", "", *_times(times), "", "", "")


def _times(times: Times) -> tuple[str, ...]:
    ms = (times.min, times.median, times.mean, times.p90, times.p95, times.p99, times.max)
    return (*(f"{value:.3f}" for value in ms), f"{times.cov:.1f} %")


def _engines(engines: Mapping[str, EngineFigures]) -> Table:
    """What the builder reports of engines; nothing here is measured."""
    rows = [
        (
            name,
            "" if each.kernels is None else str(each.kernels),
            *(
                "" if size is None else format_bytes(size)
                for size in (each.bytes_read, each.bytes_written, each.weight_bytes, each.activation_bytes, each.size)
            ),
        )
        for name, each in engines.items()
    ]
    figures = ("kernels", "read", "written", "weights", "activation memory", "plan")
    return table(("reported by the builder (not measured)", *figures), rows, right=figures)


def _machine(machine: Mapping[str, str | int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())
