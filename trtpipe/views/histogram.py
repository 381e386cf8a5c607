"""A tensor's histogram as SVG: how its magnitudes are spread, and where every method would cut them off."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.config.units import printable
from trtpipe.report.plots import bars_of, thresholds

if TYPE_CHECKING:
    from trtpipe.calibration.statistics import TensorStatistics
    from trtpipe.config.formats import Format

_WIDTH, _HEIGHT, _LEGEND = 560, 140, 190
_BARS = 140
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888")


def histogram_svg(name: str, tensor: TensorStatistics, precision: Format, taken: float) -> str:
    """One ``<svg>`` element: counts on a logarithmic axis over the magnitude, a line for each method's amax.

    Args:
        taken: the amax in force, drawn thick.
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
        for index, ((method, amax), color) in enumerate(zip(cuts.items(), _COLOURS, strict=False))
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
