"""A build as a self-contained HTML report: no scripts, and all names escaped."""

from __future__ import annotations

import json
import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtpipe.calibration.ranges import Ranges
from trtpipe.config.formats import INT8
from trtpipe.config.units import printable
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import InputError
from trtpipe.pipeline.publish import GENERATOR, REPORT, write_file
from trtpipe.regression.bundle import entries, read_build
from trtpipe.report.plots import bars_of, thresholds
from trtpipe.report.stage_records import ExportRecord, LowerRecord, SimplifyRecord
from trtpipe.views import artifacts, results
from trtpipe.views.blocks import VERDICTS, Block, Metadata, metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from trtpipe.calibration.statistics import TensorStatistics
    from trtpipe.config.formats import Format
    from trtpipe.regression.bundle import Build

#: Longer tables are collapsed.
_LONG = 25
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: .95rem; margin-bottom: .2rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: .7rem 0; font-size: .85rem; } .wide { overflow-x: auto; }
td, th { padding: .2rem .7rem .2rem 0; text-align: left; vertical-align: top; white-space: pre-line; }
th { border-bottom: 1px solid var(--line); } tr:nth-child(even) td { background: var(--soft); }
td { overflow-wrap: anywhere; } .metadata td:first-child { overflow-wrap: normal; }
td.right, th.right { text-align: right; font-variant-numeric: tabular-nums; }
.PASSED { color: #0a7d33; font-weight: 600; } .FAILED { color: #c62828; font-weight: 600; }
.not-judged { color: #9a6700; }
summary { cursor: pointer; } svg { max-width: 760px; font-size: 12px; } svg text { fill: currentColor; }
.bars { fill: #8886; }
"""
#: Sizes of a histogram and its legend, in SVG user units.
_WIDTH, _HEIGHT, _LEGEND = 560, 140, 190
_BARS = 140
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888")


def write_report(
    build: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, *, plots: bool = False
) -> Path:
    """Write a self-contained HTML report of a build.

    Args:
        build: the folder that ``build`` wrote.
        out: the file to write; by default ``report.html`` in that folder, which the next build into it removes.
        plots: draw every calibrated tensor's histogram, with each method's threshold.

    Returns:
        The file.

    Raises:
        InputError: there is no bundle, or a file of it was changed; or there are no statistics to plot.
        HostError: the file cannot be written.

    Example:
        >>> trtpipe.write_report("out")
        PosixPath('out/report.html')
    """
    found = read_build(Path(build))
    path = Path(build) / REPORT if out is None else Path(out)
    write_file(path, page(found, plots=plots), named=out is not None)
    return path


def page(build: Build, *, plots: bool) -> str:
    """The page's text."""
    manifest = build.manifest
    title = f"{Path(manifest.source).name or manifest.source}, {manifest.precision}: {manifest.verdict.headline}"
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        # a second line of defense: nothing can run or be fetched even if markup got through
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width">',
        f'<meta name="generator" content="{GENERATOR}">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
        f'<h1 class="{VERDICTS[manifest.passed].replace(" ", "-")}">{_text(title)}</h1>',
        *(f"<h2>{heading}</h2>{''.join(map(_block, blocks))}" for heading, blocks in _sections(build)),
    ]
    if plots:
        parts += ["<h2>Calibrated tensors</h2>", *_plots(build)]
    return "\n".join([*parts, "</body></html>\n"])


def _sections(build: Build) -> Iterator[tuple[str, Iterable[Block]]]:
    present = entries(build.manifest.artifacts)
    yield "Build", results.manifest(build.manifest)
    unverified = metadata([("verdict", f"{VERDICTS[None]}: {build.unverified}")])
    yield "Accuracy", [unverified] if build.parity is None else results.parity(build.parity)
    if build.latency is not None:
        yield "Latency", results.latency(build.latency)
    for label in present:
        if label.startswith("engine:") and (beside := _beside(build, label)).is_file():
            yield f"Engine for {_text(label.partition(':')[2])}", artifacts.engine(EngineRecord.read(beside), None)
    yield "Precision of every node", artifacts.lowered(LowerRecord.read(_beside(build, "lowered")), None)
    if "ranges" in present:
        yield "Calibration", artifacts.ranges(Ranges.read(build.path("ranges")), None)
    yield "Source", artifacts.exported(ExportRecord.read(_beside(build, "model")))
    if "simplified" in present and (beside := _beside(build, "simplified")).is_file():
        yield "Simplified", artifacts.simplified(SimplifyRecord.read(beside))
    yield "Settings", [metadata(_flat("", build.manifest.settings))]


def _flat(prefix: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """``(dotted name, value)`` of every setting that has one."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{name}.", value)
        elif value not in (None, [], ""):
            yield f"{prefix}{name}", json.dumps(value, ensure_ascii=False)


def _beside(build: Build, label: str) -> Path:
    """The JSON file that a stage wrote beside its artifact."""
    path = build.path(label)
    return path.with_name(f"{path.name}.json")


def _plots(build: Build) -> Iterator[str]:
    from trtpipe.calibration.statistics_file import load_statistics

    present = entries(build.manifest.artifacts)
    if not {"statistics", "ranges"} <= present.keys():
        raise InputError(f"{build.folder}: no calibration statistics to plot", "leave out --plots")
    ranges = Ranges.read(build.path("ranges"))
    precision = build.manifest.precision.quantized or INT8
    for name, tensor in load_statistics(build.path("statistics")).tensors.items():
        if tensor.largest:
            taken = ranges.tensors[name].amax if name in ranges.tensors else 0.0
            yield f"<h3>{_text(name)}</h3>{histogram_svg(name, tensor, precision, taken)}"


def _block(block: Block) -> str:
    if isinstance(block, Metadata):
        return _table('<table class="metadata">', block.pairs, ())
    right = tuple(index for index, header in enumerate(block.headers) if header in block.right)
    head = "".join(_cell("th", header, index in right) for index, header in enumerate(block.headers))
    drawn = _table(f"<table><tr>{head}</tr>", block.rows, right)
    if len(block.rows) <= _LONG:
        return drawn
    return f"<details><summary>{len(block.rows)} rows</summary>{drawn}</details>"


def _table(head: str, rows: Iterable[tuple[str, ...]], right: tuple[int, ...]) -> str:
    body = "".join(
        f"<tr>{''.join(_cell('td', text, index in right) for index, text in enumerate(row))}</tr>" for row in rows
    )
    return f'<div class="wide">{head}{body}</table></div>'


def _cell(tag: str, text: str, right: bool) -> str:
    verdict = text.split(" ", 1)[0].split(":", 1)[0].split("\n", 1)[0]
    names = [*(["right"] if right else []), *([verdict] if verdict in ("PASSED", "FAILED") else [])]
    attribute = f' class="{" ".join(names)}"' if names else ""
    return f"<{tag}{attribute}>{_text(text)}</{tag}>"


def _text(text: str) -> str:
    """Escaped text: no markup, no invisible characters; line breaks stay."""
    return escape("\n".join(map(printable, text.split("\n"))))


def histogram_svg(name: str, tensor: TensorStatistics, precision: Format, taken: float) -> str:
    """One ``<svg>`` element: counts on a logarithmic axis over the magnitude, a line for each method's amax.

    Args:
        taken: the calibrated amax, drawn thick.
    """
    edges, counts = bars_of(tensor, _BARS)
    heights = np.log10(np.maximum(counts, 0) + 1)
    heights = heights / (heights.max() or 1.0) * _HEIGHT
    top = edges[-1]
    points = " ".join(
        f"{_WIDTH * left / top:.1f},{_HEIGHT - height:.1f} {_WIDTH * right / top:.1f},{_HEIGHT - height:.1f}"
        for left, right, height in zip(edges, edges[1:], heights, strict=False)
    )
    cuts = thresholds(name, tensor, precision) if tensor.count and not tensor.nonfinite else {}
    lines = "".join(
        _line(_WIDTH * amax / top, color, 1) + _label(index, f"{method}: {amax:.4g}", color)
        for index, ((method, amax), color) in enumerate(zip(cuts.items(), _COLORS, strict=False))
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH + _LEGEND} {_HEIGHT + 18}" role="img"><title>{escape(printable(name))}</title>'
        f'<polygon class="bars" points="0,{_HEIGHT} {points} {_WIDTH},{_HEIGHT}"/>'
        f"{_line(_WIDTH * taken / top, 'currentColor', 3)}{lines}"
        f'<text x="0" y="{_HEIGHT + 14}">0</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 14}" text-anchor="end">{top:.4g}</text></svg>'
    )


def _line(x: float, color: str, width: int) -> str:
    x = min(x, float(_WIDTH))
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT}" stroke="{color}" stroke-width="{width}"/>'


def _label(index: int, text: str, color: str) -> str:
    return f'<text x="{_WIDTH + 12}" y="{14 + 18 * index}" style="fill:{color}">{escape(text)}</text>'
