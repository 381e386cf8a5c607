"""What is shown of a measurement, and of two engines in turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.config.units import format_bytes
from trtpipe.views.blocks import VERDICTS, Block, Table, facts, notes, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trtpipe.engine.record import EngineFigures
    from trtpipe.latency.reports import Latency, LatencyComparison, LatencyReport, Times

_HEADERS = ("min", "median", "mean", "p90", "p95", "p99", "max")
#: The parts of a GPU latency, in trtexec's words.
_PARTS = {
    "gpu_compute": "GPU compute",
    "enqueue": "enqueue",
    "h2d": "H2D",
    "d2h": "D2H",
    "end_to_end": "end to end, through Polygraphy",
}


def latency(report: LatencyReport) -> Iterator[Block]:
    """A ``latency.json``."""
    judged = report.max_p99 is not None and any(figure.on_gpu for figure in report.measurements)
    yield facts(
        [
            ("verdict", VERDICTS[report.passed if judged else None]),
            ("budget", "none" if report.max_p99 is None else f"p99 of {report.max_p99:g} ms"),
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
    """Two engines or graphs in turns."""
    yield facts(
        [
            ("old", found.old),
            ("new", found.new),
            *([("runner", found.runner)] if found.runner else []),
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
                pair.faster or "neither, as far as this tells",
            )
            for pair in found.pairs
        ]
        yield table(headers, rows, right=headers[1:5])
    if found.engines:
        yield _engines(found.engines)


def _rows(figure: Latency) -> Iterator[tuple[str, ...]]:
    """The latency, then what it is made of."""
    runner = figure.runner if figure.on_gpu else f"{figure.runner}, not a GPU latency"
    counts = (f"{figure.throughput_qps:.1f}", "yes" if figure.stable else "NO", runner)
    yield (figure.artifact, figure.on, *_times(figure), *counts)
    for name, times in figure.parts.items():
        yield (f"  {_PARTS.get(name, name)}", "", *_times(times), "", "", "")


def _times(times: Times) -> tuple[str, ...]:
    ms = (times.min, times.median, times.mean, times.p90, times.p95, times.p99, times.max)
    return (*(f"{value:.3f}" for value in ms), f"{times.cov:.1f} %")


def _engines(engines: Mapping[str, EngineFigures]) -> Table:
    """What the builder says of engines: no latency."""
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
    headers = ("by the builder, no latency", "kernels", "read", "written", "weights", "activation memory", "plan")
    return table(headers, rows, right=headers[1:])


def _machine(machine: Mapping[str, str | int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())
