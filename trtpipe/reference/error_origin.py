"""Where the error of a graph in 16 bits comes from: the node whose result is far worse than what goes into it.

Both graphs run on one sample with every tensor visible. A tensor's error is that of its worst row (along the last axis)
relative to the row: a normalization takes from each row what its elements have in common, so that one row of values
that hardly differ loses its digits while all others keep theirs. Rows that are small beside the others do not count.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.backends.base import load_backend
from trtpipe.passes.graph_pass import node_label
from trtpipe.passes.operators import computed_floats

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx_ir as ir

    from trtpipe.artifact import Feed
    from trtpipe.config.settings import Settings

#: By so much a node's result is worse than its inputs, and such a part of the output's error it has.
_WORSE, _PART = 8.0, 0.25
#: Rows below this share of the tensor's root mean square do not count.
_SMALL = 2.0**-4


@dataclass(frozen=True)
class Origin:
    """The node that an output's error comes from.

    Attributes:
        before, after: error of the worst row of its inputs and of its result, relative to the row.
    """

    node: str
    op_type: str
    before: float
    after: float

    def __str__(self) -> str:
        where = f"most arises in {self.op_type} {self.node!r}"
        return f"{where}: its input is off by {self.before:.2%} at most, its result by {self.after:.2%}"


def error_origin(
    exact: Path, rounded: Path, output: str, feed: Feed, workdir: Path, runtime: Settings
) -> Origin | None:
    """The node that most of an output's error comes from; ``None`` where it adds up over many.

    Args:
        exact: the graph in float32 that ``rounded`` was lowered from, so that tensors have the same names.
        rounded: with 16-bit storage, which is emulated.
        feed: a sample on which the output is off.

    Raises:
        StageError: one of the graphs cannot run with all tensors visible.
    """
    from trtpipe.passes.graph_pass import run_passes
    from trtpipe.passes.infer_types import InferTypes
    from trtpipe.preflight.onnx_io import load_model
    from trtpipe.reference.runnable import emulated

    model, other = load_model(exact), emulated(rounded)
    run_passes(model, [InferTypes()])
    nodes = _behind(model, output)
    known = {value.name for node in other.graph for value in node.outputs}
    names = [str(value.name) for node in nodes for value in computed_floats(node.outputs) if value.name in known]
    if output not in names:
        return None
    wanted = _run(model, names, feed, workdir / "exact.onnx", runtime)
    found = _run(other, names, feed, workdir / "rounded.onnx", runtime)
    errors = {name: _error(wanted[name], found[name]) for name in names if wanted[name].shape == found[name].shape}
    return _origin(nodes, errors, errors.get(output, 0.0))


def _behind(model: ir.Model, output: str) -> list[ir.Node]:
    """The nodes of the main graph that an output is computed by, in order."""
    needed = {value for value in model.graph.outputs if value.name == output}
    found = []
    for node in reversed(model.graph):
        if needed.intersection(node.outputs):
            found.append(node)
            needed.update(value for value in node.inputs if value is not None)
    return found[::-1]


def _run(model: ir.Model, names: list[str], feed: Feed, path: Path, runtime: Settings) -> Mapping[str, np.ndarray]:
    from trtpipe.passes.expose import expose
    from trtpipe.preflight.onnx_io import save_model

    expose(model, names)
    written = save_model(model, path)
    try:
        with ExitStack() as stack:
            return stack.enter_context(load_backend("onnxruntime").open(path, runtime)).infer(feed)
    finally:
        for name in written:
            path.with_name(name).unlink()


def _error(wanted: np.ndarray, found: np.ndarray) -> float:
    """Of the worst row, relative to it."""
    rows = wanted.shape[-1] if wanted.ndim > 1 and wanted.shape[-1] > 1 else -1
    if not wanted.size:
        return 0.0
    x, y = (each.astype(np.float64).reshape(-1, rows if rows > 0 else wanted.size) for each in (wanted, found))
    size, noise = np.sqrt(np.square(x).mean(1)), np.sqrt(np.square(x - y).mean(1))
    counted = size > _SMALL * np.sqrt(np.square(size).mean())
    return float(np.max(noise[counted] / size[counted], initial=0.0))


def _origin(nodes: list[ir.Node], errors: Mapping[str, float], final: float) -> Origin | None:
    worst: Origin | None = None
    reached: dict[ir.Value, float] = {}
    for node in nodes:
        before = max((reached.get(value, 0.0) for value in node.inputs if value is not None), default=0.0)
        for value in node.outputs:
            reached[value] = errors.get(str(value.name), before)
        after = max((errors.get(str(value.name), 0.0) for value in node.outputs), default=0.0)
        origin = Origin(node_label(node), node.op_type, before, after)
        if after >= _PART * final and after >= _WORSE * before > 0 and (worst is None or _gain(origin) > _gain(worst)):
            worst = origin
    return worst


def _gain(origin: Origin) -> float:
    return origin.after / origin.before
