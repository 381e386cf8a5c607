"""Layout of what searches and comparisons wrote: baselines, tuning reports, sensitivity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trtpipe.views.blocks import Block, metadata, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtpipe.quantization.sensitivity import Sensitivity
    from trtpipe.quantization.tuning_report import Tuning
    from trtpipe.regression.baseline import Baseline


def baseline(found: Baseline) -> Iterator[Block]:
    """A baseline: what a build is compared with."""
    yield metadata(
        [
            ("made by", f"trtpipe {found.trtpipe}"),
            ("precision", found.precision),
            ("data", f"{found.samples} samples of {found.data}"),
            *(("metric", f"{value.artifact}: {value.metric} {value.value:.4f}") for value in found.metrics),
            ("constants", str(len(found.weights))),
            ("engines", ", ".join(found.engines)),
            *(("replaced", update.reason) for update in found.history),
        ]
    )
    rows = [(entry.label, file.name, file.sha256[:12]) for entry in found.artifacts for file in entry.files]
    yield table(("artifact", "file", "sha256"), rows)


def tuning(found: Tuning, limit: int | None) -> Iterator[Block]:
    """A tuning report: the budget, and the layers that hold it."""
    metric = found.reference.metric
    yield metadata(
        [
            ("budget", f"{'met' if found.met else 'not met'}: {metric} may fall by {found.allowed:.4g}"),
            ("search", "complete" if found.complete else "its time was up"),
            (f"{metric} in FP32", f"{found.reference.value:.4f}"),
            (f"{metric} quantized", f"{found.lowered.value:.4f}"),
            (f"{metric} tuned", f"{found.tuned.value:.4f} ({found.words}), {found.tuned.runner}"),
            ("coverage", f"{found.share:.1%} of MACs"),
            ("calibration", f"{found.calibration.method}, weights {found.calibration.weights}"),
            ("evaluations", str(found.evaluations)),
        ]
    )
    if found.groups:
        yield table(("kept in higher precision",), [(name,) for name in found.groups], limit=limit)


def sensitivity(found: Sensitivity, limit: int | None) -> Iterator[Block]:
    """The groups of layers, the most sensitive first."""
    yield metadata([("precision", found.precision), ("data", f"{found.samples} samples of {found.data}")])
    rows = [
        (
            group.name,
            str(len(group.nodes)),
            f"{group.noise:.3g}",
            f"{-10 * math.log10(group.noise):.1f}" if group.noise > 0 else "inf",
        )
        for group in found.ranked
    ]
    yield table(("group", "nodes", "noise", "SNR dB"), rows, right=("nodes", "noise", "SNR dB"), limit=limit)
