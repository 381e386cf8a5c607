"""A build as a self-contained HTML report: no scripts, and all names escaped."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtpipe.api.diff import diff
from trtpipe.api.remedies import explained
from trtpipe.calibration.ranges import Ranges
from trtpipe.config.formats import INT8
from trtpipe.config.paths import path_of
from trtpipe.config.units import format_bytes, printable
from trtpipe.engine.record import EngineRecord
from trtpipe.errors import InputError
from trtpipe.pipeline.publish import GENERATOR, REPORT, write_file
from trtpipe.quantization.sensitivity import Sensitivity
from trtpipe.regression.bundle import entries, read_build
from trtpipe.report.stage_records import ExportRecord, LowerRecord, SimplifyRecord
from trtpipe.views import artifacts, pictures, results
from trtpipe.views.blocks import VERDICTS, Block, metadata, table
from trtpipe.views.output_errors import OutputErrors, output_errors, worst_samples
from trtpipe.views.thumbnails import Thumbnail, thumbnails

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import jinja2

    from trtpipe.regression.bundle import Build

#: Longer tables are collapsed.
_LONG = 25
#: Histograms that are drawn unless all are asked for.
_HISTOGRAMS = 8
_TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class _Engine:
    """An engine, drawn where the builder reported its layers."""

    target: str
    picture: pictures.EnginePicture | None
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class _Accuracy:
    charts: tuple[pictures.Columns, ...]
    decisions: tuple[OutputErrors, ...]
    images: tuple[Thumbnail, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class _Latency:
    measured: tuple[pictures.Measured, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class _Sensitivity:
    depth: pictures.Columns
    groups: pictures.Bars


@dataclass(frozen=True)
class _Changed:
    """What differs from another build, and the engines of both for the same targets, the old one first."""

    old: str
    blocks: tuple[Block, ...]
    engines: tuple[tuple[pictures.EnginePicture, pictures.EnginePicture], ...]


@explained
def write_report(
    build: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    plots: bool = False,
    against: str | os.PathLike[str] | None = None,
    sensitivity: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a self-contained HTML report of a build.

    Args:
        build: the folder that ``build`` wrote, or its manifest.
        out: the file to write; by default ``report.html`` in that folder, which the next build into it removes.
        plots: draw every calibrated tensor's histogram, not only those that depart most from their range.
        against: the folder of another build, whose engines are drawn beside this one's.
        sensitivity: a ``sensitivity.json`` of the same model.
        images: the evaluation data, as ``build`` took it: the samples to look at are shown as pictures. Without it no
            sample enters the report, so that it can be sent around.

    Returns:
        The file.

    Raises:
        InputError: there is no bundle, or a file of it was changed; there are no statistics to plot; ``images`` holds
            other samples than those that were evaluated.
        HostError: the file cannot be written.

    Example:
        >>> trtpipe.write_report("out")
        PosixPath('out/report.html')
    """
    found = read_build(Path(build))
    path = found.folder / REPORT if out is None else Path(out)
    text = page(
        found,
        plots=plots,
        against=None if against is None else read_build(path_of(against, "against")),
        sensitivity=None if sensitivity is None else Sensitivity.read(path_of(sensitivity, "sensitivity")),
        images=None if images is None else os.fspath(images),
    )
    write_file(path, text, named=out is not None)
    return path


def page(
    build: Build,
    *,
    plots: bool,
    against: Build | None = None,
    sensitivity: Sensitivity | None = None,
    images: str | None = None,
) -> str:
    """The page's text."""
    manifest, verdict = build.manifest, build.manifest.verdict
    records = dict(_engine_records(build))
    histograms, left = _histograms(build, everything=plots)
    engines = tuple(_engines(build, records))
    return _template().render(
        generator=GENERATOR,
        long=_LONG,
        title=f"{Path(manifest.source).name or manifest.source}, {manifest.precision}: {verdict.headline}",
        word=verdict.word,
        outcome=VERDICTS[verdict.passed].replace(" ", "-"),
        scope=verdict.accuracy.summary,
        cards=tuple(_cards(build, records)),
        changed=None if against is None else _changed(against, build),
        accuracy=_accuracy(build, images),
        sensitivity=None
        if sensitivity is None
        else _Sensitivity(pictures.along_the_depth(sensitivity), pictures.sensitivity_bars(sensitivity)),
        engines=engines,
        against_half=pictures.against_half({each.target: records[each.target] for each in engines}),
        latency=None if build.latency is None else _latency(build),
        histograms=histograms,
        histograms_note=f"{left} more with --plots." if left else "",
        sections=[(heading, tuple(blocks)) for heading, blocks in _sections(build)],
    )


def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, finalize=_finalized, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["verdict"] = _verdict_class
    return environment.from_string(files("trtpipe.views").joinpath(_TEMPLATE).read_text(encoding="utf-8"))


def _finalized(value: object) -> object:
    """Text without invisible characters; line breaks stay. What is markup already is so by the template alone."""
    import markupsafe

    if isinstance(value, markupsafe.Markup) or not isinstance(value, str):
        return value
    return "\n".join(map(printable, value.split("\n")))


def _verdict_class(text: str) -> str:
    """``PASSED`` or ``FAILED`` for a text that begins with it."""
    first = text.split(" ", 1)[0].split(":", 1)[0].split("\n", 1)[0]
    return first if first in ("PASSED", "FAILED") else ""


def _cards(build: Build, records: Mapping[str, EngineRecord]) -> Iterator[tuple[str, str, str]]:
    """The figures that people look for first: name, value, detail."""
    manifest, parity = build.manifest, build.parity
    yield "precision", str(manifest.precision), manifest.backend
    if parity is not None:
        metrics = {value.artifact: value for value in parity.metrics}
        last = list(metrics.values())[-1] if metrics else None
        if last is not None and parity.reference in metrics:
            before = metrics[parity.reference].value
            yield last.metric, f"{last.value:.4f}", f"{last.artifact}; {parity.reference} {before:.4f}"
        snrs = [each.snr_db for found in parity.comparisons[-1:] for each in found.outputs]
        if snrs:
            yield "lowest SNR", f"{min(snrs):.1f} dB", parity.comparisons[-1].artifact
    for name, value in artifacts.coverage(manifest.precision, manifest.work):
        share, _, rest = value.partition(" of ")
        yield name, share, f"of {rest}" if rest else ""
    for label, entry in entries(manifest.artifacts).items():
        record = records.get(label.partition(":")[2]) if label.startswith("engine:") else None
        if record is not None:
            kernels = "" if record.report is None else f"{len(record.report.kernels)} kernels"
            yield f"engine {record.target}", format_bytes(entry.files[0].size), kernels
    for measured in () if build.latency is None else build.latency.measurements:
        what = f"{measured.artifact}, {measured.on}" + ("" if measured.on_gpu else ", on the CPU")
        yield "median latency", f"{measured.median:.3f} ms", what


def _engine_records(build: Build) -> Iterator[tuple[str, EngineRecord]]:
    for label in entries(build.manifest.artifacts):
        if label.startswith("engine:") and (beside := _beside(build, label)).is_file():
            yield label.partition(":")[2], EngineRecord.read(beside)


def _engines(build: Build, records: Mapping[str, EngineRecord]) -> Iterator[_Engine]:
    """One entry for all targets whose engines have equal layers."""
    nodes = {decision.node: decision for decision in LowerRecord.read(_beside(build, "lowered")).nodes}
    groups: dict[str, list[str]] = {}
    for target, record in records.items():
        alike = record.report.to_line() if record.report is not None and record.report.kernels else target
        groups.setdefault(alike, []).append(target)
    for targets in groups.values():
        record = records[targets[0]]
        drawn = record.report is not None and record.report.kernels
        picture = pictures.engine_picture(targets, record.report, nodes) if drawn and record.report else None
        blocks = [block for target in targets for block in artifacts.engine(records[target], None)]
        yield _Engine(targets[0], picture, tuple(blocks))


def _changed(old: Build, new: Build) -> _Changed:
    found = diff(old.folder, new.folder)
    kinds = {
        "metric": found.metrics,
        "parity": found.parity,
        "size": found.sizes,
        "nodes": found.counts,
        "latency": found.latency,
    }
    figures = [(f"{kind} {both.name}", both.old, both.new) for kind, rows in kinds.items() for both in rows]
    nodes = [(both.name, both.old, both.new) for both in found.precisions]
    ranges = [(f"amax of {move.tensor}", f"{move.old:.4g}", f"{move.new:.4g}") for move in found.ranges]
    texts = {"setting": found.settings, "tool": found.toolchain, "weights": found.weights, "engine": found.engines}
    changes = [(kind, text) for kind, lines in texts.items() for text in lines]
    blocks = [table(("what", "change"), changes)] if changes else []
    blocks += [table(("", "before", "now"), rows) for rows in (figures, nodes, ranges) if rows]
    before, now = (
        {each.target: each.picture for each in _engines(build, dict(_engine_records(build)))} for build in (old, new)
    )
    pairs = [(was, picture) for target, picture in now.items() if picture and (was := before.get(target))]
    return _Changed(str(old.folder), tuple(blocks), tuple(pairs))


def _accuracy(build: Build, images: str | None) -> _Accuracy:
    if build.parity is None:
        return _Accuracy((), (), (), (metadata([("verdict", f"{VERDICTS[None]}: {build.unverified}")]),))
    kept = build.path("parity").with_name("outputs.json")
    found = output_errors(kept, build.parity) if kept.is_file() else ()
    shown = [each for each in found if any(each.by_sample)]
    charts = [
        pictures.columns(f"{each.artifact}, {each.output}: error by {kind}", values, unit="", kind=kind,
                         note="Root mean square of the difference over the spread of the reference.")
        for each in shown
        for kind, values in (("sample", each.by_sample), ("channel", each.by_channel))
        if values
    ]  # fmt: skip
    drawn = () if images is None else thumbnails(images, build, worst_samples(shown))
    decided = tuple(each for each in shown if each.changes is not None)
    return _Accuracy(tuple(charts), decided, drawn, tuple(results.parity(build.parity)))


def _latency(build: Build) -> _Latency:
    assert build.latency is not None
    measured = tuple(map(pictures.measured, build.latency.measurements))
    return _Latency(measured, tuple(results.latency(build.latency)))


def _sections(build: Build) -> Iterator[tuple[str, Iterator[Block] | Sequence[Block]]]:
    present = entries(build.manifest.artifacts)
    yield "Build", results.manifest(build.manifest)
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


def _histograms(build: Build, *, everything: bool) -> tuple[tuple[pictures.Histogram, ...], int]:
    """Calibrated tensors with their ranges, those that lose most to theirs first; and how many are left out."""
    from trtpipe.calibration.statistics_file import load_statistics

    present = entries(build.manifest.artifacts)
    if not {"statistics", "ranges"} <= present.keys():
        if everything:
            raise InputError(f"{build.folder}: no calibration statistics to plot", "leave out --plots")
        return (), 0
    ranges = Ranges.read(build.path("ranges"))
    precision = build.manifest.precision.quantized or INT8
    found = {
        name: tensor
        for name, tensor in load_statistics(build.path("statistics")).tensors.items()
        if tensor.largest and (everything or name in ranges.tensors)
    }
    taken = {name: ranges.tensors[name].amax if name in ranges.tensors else 0.0 for name in found}
    order = list(found)
    if not everything:
        order.sort(key=lambda name: taken[name] / found[name].largest)
        order = order[:_HISTOGRAMS]
    drawn = tuple(pictures.histogram(name, found[name], precision, taken[name]) for name in order)
    return drawn, len(found) - len(drawn)
