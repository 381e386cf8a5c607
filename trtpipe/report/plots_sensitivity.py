"""A picture of sensitivity: one bar a group of layers, most harmful first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.config.formats import FP16
from trtpipe.config.os_errors import translate_os_errors
from trtpipe.report.plots import require_matplotlib

if TYPE_CHECKING:
    from pathlib import Path

    from trtpipe.quantization.sensitivity import Sensitivity

_MOST_BARS = 60
_COLOURS = ("#d55e00", "#0072b2")


def plot_sensitivity(found: Sensitivity, path: Path) -> None:
    """Draw ``found`` into a PNG file: noise over signal power of every group alone, on a logarithmic axis.

    Raises:
        HostError: matplotlib is not installed, or ``path`` cannot be written to.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = found.ranked[:_MOST_BARS]
    figure = Figure(figsize=(9, 1.5 + 0.22 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(shown))
    least = min((group.noise for group in shown if group.noise > 0), default=1e-12) / 10
    axes.barh(rows, [max(group.noise, least) for group in shown], color=_COLOURS[0], label=found.precision)
    halves = [group.half_noise for group in shown]
    if any(noise is not None for noise in halves):
        axes.barh(rows, [max(noise or 0.0, least) for noise in halves], height=0.4, color=_COLOURS[1], label=FP16.name)
        axes.legend()
    axes.set_yticks(rows, [group.name for group in shown], fontsize=7, parse_math=False)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("noise over signal power at the outputs, this group alone")
    axes.set_title(f"{len(shown)} of {len(found.groups)} groups, {found.samples} samples")
    FigureCanvasAgg(figure)
    with translate_os_errors(path, f"write {path}", elsewhere="choose another file"):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", metadata={"Software": None})
