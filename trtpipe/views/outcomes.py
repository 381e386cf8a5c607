"""What is shown of parity, and of the manifest that holds all verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.config.units import format_bytes
from trtpipe.views.blocks import VERDICTS, Block, facts, notes, table
from trtpipe.views.models import share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.accuracy.reports import MetricValue, ParityReport
    from trtpipe.report.manifest import Manifest


def parity(report: ParityReport) -> Iterator[Block]:
    """How far every artifact is from its reference, and whether that is allowed."""
    kind = "synthetic data" if report.synthetic else "real data"
    yield facts(
        [
            ("verdict", "\n".join([VERDICTS[report.passed], *report.reasons])),
            *((("first failing stage", report.failing_stage),) if report.failing_stage else ()),
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
            "" if output.agreement is not None else f"{output.snr_db:.1f}",
            _share(output.top1_agreement),
            _share(output.agreement),
            VERDICTS[output.passed],
            comparison.runner,
        )
        for comparison in (*report.pytorch, *report.comparisons, *report.links)
        for output in comparison.outputs
    ]
    headers = (
        "artifact",
        "against",
        "output",
        "mean",
        "max",
        "cosine",
        "SNR dB",
        "top-1 same",
        "equal",
        "verdict",
        "runner",
    )
    yield table(headers, rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _metric(value: MetricValue) -> str:
    others = "".join(f", {name} {figure:.4g}" for name, figure in value.others.items())
    count = f" on {value.samples}" if value.samples else ""
    return f"{value.artifact}: {value.metric} {value.value:.4f}{count}{others}, {value.runner}"


def manifest(found: Manifest) -> Iterator[Block]:
    """The verdicts, what they are about, and the files."""
    yield facts(
        [
            ("verdict", VERDICTS[found.passed]),
            ("source", found.source),
            ("precision", found.precision),
            ("built by", f"trtpipe {found.trtpipe}, {found.backend}, for {', '.join(found.targets)}"),
            ("tools", ", ".join(f"{name} {version}" for name, version in found.toolchain.items())),
            *([] if found.work is None else [("in 8 bits", share(found.work))]),
            *_calibration(found),
            *((verdict.gate, f"{VERDICTS[verdict.passed]}: {verdict.summary}") for verdict in found.verdicts),
            *notes(found.notes),
        ]
    )
    rows = [
        (entry.label, file.name, format_bytes(file.size), file.sha256[:12])
        for entry in found.artifacts
        for file in entry.files
    ]
    yield table(("artifact", "file", "size", "sha256"), rows, right=("size",))


def _calibration(found: Manifest) -> list[tuple[str, str]]:
    account = found.calibration
    return [] if account is None else [("calibration", f"{account['samples']} samples from {account['source']}")]
