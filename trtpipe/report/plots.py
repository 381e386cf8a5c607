"""Plots as PNG files: histograms of calibrated tensors with every method's threshold, and sensitivity."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.config.formats import FP16, INT8, find_format
from trtpipe.config.os_errors import translate_os_errors
from trtpipe.config.paths import path_of
from trtpipe.config.requirements import install
from trtpipe.errors import HostError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.calibration.statistics import TensorStatistics
    from trtpipe.config.formats import Format
    from trtpipe.quantization.sensitivity import Sensitivity

_BARS = 200
#: Groups of layers in a plot of sensitivity.
_MOST_GROUPS = 60
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def plot_statistics(
    statistics: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    tensors: Sequence[str] = (),
    precision: Format | str = INT8,
) -> tuple[Path, ...]:
    """Draw the tensors of a statistics file into ``folder``, which is made if need be.

    Args:
        statistics: a ``statistics.npz``.
        tensors: names of the tensors to draw; none for all that held values other than 0.
        precision: the format the thresholds are for, or its name.

    Returns:
        The PNG files, in order of the tensors: ``<number>_<name>.png``, characters unfit for a file name replaced.

    Raises:
        InputError: it is no statistics file, or has no such tensor.
        HostError: matplotlib is not installed, or ``folder`` cannot be written to.

    Example:
        >>> [path.name for path in trtpipe.plot_statistics("statistics.npz", "plots", tensors=["x"])]
        ['000_x.png']
    """
    from trtpipe.calibration.statistics_file import load_statistics
    from trtpipe.config.units import suggestion

    require_matplotlib()
    statistics, folder = path_of(statistics, "statistics"), path_of(folder, "folder")
    form = find_format(precision) if isinstance(precision, str) else precision
    if form is None or not form.quantized:
        raise InputError(f"precision: {precision} is no quantized format", "give int8 or fp8")
    found = load_statistics(statistics).tensors
    if unknown := [name for name in tensors if name not in found]:
        raise InputError(f"{statistics}: no tensor {unknown[0]!r}", suggestion(unknown[0], found, "tensors here"))
    drawn = tensors or [name for name, tensor in found.items() if tensor.largest]
    paths = [
        folder / f"{number:03}_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:80]}.png" for number, name in enumerate(drawn)
    ]
    with translate_os_errors(folder, f"write {folder}", elsewhere="choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in zip(drawn, paths, strict=True):
            _draw(name, found[name], form, path)
    return tuple(paths)


def thresholds(name: str, tensor: TensorStatistics, precision: Format) -> dict[str, float]:
    """Method -> amax, for every method worth comparing."""
    from trtpipe.calibration.methods import COMPARED_METHODS
    from trtpipe.calibration.ranges import range_of

    return {str(choice): range_of(name, tensor, choice, precision).amax for choice in COMPARED_METHODS}


def bars_of(tensor: TensorStatistics, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A histogram of the magnitudes other than 0, in ``count`` bars of equal width.

    Returns:
        Edges, float64[count + 1] from 0 to the largest magnitude (1 if there is none); counts, float64[count].
    """
    from trtpipe.calibration.statistics import CumulativeHistogram

    edges = np.linspace(0, tensor.largest or 1.0, count + 1)
    return edges, np.maximum(np.diff(CumulativeHistogram.of(tensor).below(edges, 0)), 0)


def _draw(name: str, tensor: TensorStatistics, precision: Format, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    edges, counts = bars_of(tensor, _BARS)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.stairs(counts, edges, fill=True, color="#cccccc")
    if tensor.count and not tensor.nonfinite:
        for (method, amax), color in zip(thresholds(name, tensor, precision).items(), _COLORS, strict=True):
            axes.axvline(amax, color=color, label=f"{method}: {amax:.4g}")
        axes.legend(title=f"amax for {precision}")
    axes.set_yscale("log", nonpositive="clip")
    axes.set_xlabel("magnitude")
    axes.set_ylabel(f"values other than 0, of {tensor.count}")
    axes.set_title(name, parse_math=False)
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", metadata={"Software": None})


def plot_sensitivity(found: Sensitivity, path: str | os.PathLike[str]) -> None:
    """Draw ``found`` into a PNG file: noise over signal power of every group alone, on a logarithmic axis.

    Args:
        found: what ``sensitivity`` returned.
        path: the file.

    Raises:
        InputError: ``path`` is a folder.
        HostError: matplotlib is not installed, or ``path`` cannot be written to.

    Example:
        >>> found = trtpipe.sensitivity("model.onnx", calib_data="photos.npz")
        >>> trtpipe.plot_sensitivity(found, "sensitivity.png")
    """
    require_matplotlib()
    path = path_of(path, "path")
    if path.is_dir():
        raise InputError(f"path: {path} is a folder", "name the PNG file to write, such as sensitivity.png in it")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = found.ranked[:_MOST_GROUPS]
    figure = Figure(figsize=(9, 1.5 + 0.22 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(shown))
    least = min((group.noise for group in shown if group.noise > 0), default=1e-12) / 10
    axes.barh(rows, [max(group.noise, least) for group in shown], color=_COLORS[1], label=found.precision)
    half_noises = [group.half_noise for group in shown]
    if any(noise is not None for noise in half_noises):
        axes.barh(
            rows, [max(noise or 0.0, least) for noise in half_noises], height=0.4, color=_COLORS[0], label=FP16.name
        )
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


def require_matplotlib() -> None:
    """Complain early.

    Raises:
        HostError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise HostError("plots need the package matplotlib, which is not installed", install("plots")) from error
