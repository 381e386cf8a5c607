"""``trtpipe sensitivity``: the quantization sensitivity of each group of layers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtpipe.cli import options
from trtpipe.cli.options import PATH, command
from trtpipe.cli.results import print_document, print_paths
from trtpipe.cli.tables import table
from trtpipe.cli.text import emit
from trtpipe.config.units import printable

if TYPE_CHECKING:
    from trtpipe import Sensitivity
    from trtpipe.cli.session import Session

_ROWS = 20


@command(
    click.argument("source"),
    options.report_option,
    options.quantized_options,
    options.profile_file_option,
    options.calibration_options("--calib-data", "--calib-samples", "--calib-method"),
    options.shape_options,
    options.keep_option,
    options.no_simplify_option,
    click.option(
        "--samples", type=click.IntRange(min=1), default=64, metavar="N", help="Number of samples (default: 64)."
    ),
    click.option("--half", is_flag=True, help="Also measure every group in FP16."),
    click.option("--plot", type=PATH, metavar="FILE.png", help="Plot the ranking; needs matplotlib."),
)
def sensitivity(session: Session, source: str, samples: int, half: bool, plot: Path | None) -> int:
    """Rank layers by quantization sensitivity.

    SOURCE is what trtpipe build takes. Each group of layers alone is quantized to INT8 (or --fp8), and the model's
    outputs are compared with those in FP32: no labels are needed.
    """
    import trtpipe

    if plot is not None:
        from trtpipe.report.plots import require_matplotlib

        require_matplotlib()
    with session.listening() as progress:
        found = trtpipe.sensitivity(source, session.out, samples=samples, half=half, **session.model_request(progress))
    if plot is not None:
        trtpipe.plot_sensitivity(found, plot)
    if session.json:
        return print_document("sensitivity", {"sensitivity": found.to_dict()})
    _show(found, None if session.verbosity > 0 else _ROWS)
    print_paths([], ["tune", source, "--max-drop", "0.5%", "-o", "tuned.toml"])
    return 0


def _show(found: Sensitivity, limit: int | None) -> None:
    total = sum(group.macs for group in found.groups) + found.not_lowered or 1
    rows = [
        (
            group.name + (f" and {len(group.nodes) - 1} more" if len(group.nodes) > 1 else ""),
            ", ".join(group.operators),
            f"{group.macs / total:.1%}",
            f"{group.noise:.3g}",
            _decibel(group.noise),
            "" if group.half_noise is None else _decibel(group.half_noise),
        )
        for group in found.ranked[:limit]
    ]
    emit(table(("group", "operators", "MACs", "noise", f"SNR dB in {found.precision}", "SNR dB in fp16"), rows))
    hidden = len(found.groups) - len(rows)
    if hidden:
        emit(f"and {hidden} more groups: --verbose")
    emit(
        f"all {len(found.groups)} together: noise {found.all_noise:.3g} ({_decibel(found.all_noise)} dB), "
        f"{found.additivity:.2f} times the sum; {found.samples} samples of {printable(found.data)}"
    )


def _decibel(noise: float) -> str:
    return f"{-10 * math.log10(noise):.1f}" if noise > 0 else "inf"
