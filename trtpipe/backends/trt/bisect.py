"""Bisects a graph to find the node that makes a build fail, where the error names none.

Delta debugging in its simplest form (Zeller and Hildebrandt 2002): the nodes are in topological order, so the first N
of them are a graph, whose outputs are the values that the others would read.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir as ir

from trtpipe.backends.trt.node_advice import explained, with_lines
from trtpipe.errors import InputError, StageError, TrtpipeError, WorkerError
from trtpipe.passes.graph_pass import enclosing, node_label, owners_of
from trtpipe.passes.infer_types import InferTypes
from trtpipe.preflight.onnx_io import load_model, save_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.backends.trt.flavor import Flavor

#: Builds the model at a path, or raises.
Attempt: TypeAlias = Callable[[Path], object]

#: After this time the search ends, with several nodes left.
_SECONDS = 120.0
#: Larger graphs are not bisected: every step writes one.
_MOST_BYTES = 256 << 20


def with_failing_node(
    error: StageError, model: Path, attempt: Attempt, workdir: Path, flavor: Flavor, *, lowered: bool = True
) -> StageError:
    """``error``, with the node that causes it if its message names none, the user's line, and advice for that node.

    Args:
        model: the graph that could not be built.
        attempt: builds another graph with the same settings.
        workdir: for the partial graphs, which are removed again.
        lowered: whether the graph was lowered; see ``node_advice.explained``.
    """
    try:
        loaded = _load(model)
    except InputError:  # no readable model, as the error says
        return error
    nodes, everything = list(loaded.graph), list(loaded.graph.all_nodes())
    message, node = error.message, _named(error.message, everything)
    if node is None and model.stat().st_size <= _MOST_BYTES:
        with tempfile.TemporaryDirectory(dir=workdir) as folder:
            fine, failing = _search(error, model, attempt, Path(folder) / model.name, len(nodes))
        if failing < len(nodes) or fine > 0 or len(nodes) == 1:  # else there was no time for a single build
            node = nodes[fine] if failing == fine + 1 else None
            suspects = ", ".join(f"{node_label(each)!r} ({each.op_type})" for each in nodes[fine:failing][:3])
            message = f"{message}; the failing node is {suspects}"
    elif node is not None and not re.search(rf"\b{node.op_type}\b", message):
        message = f"{message}; node {node.name!r} is of operator {node.op_type}"
    remedy = error.remedy
    if node is not None:
        outer = (each for each in enclosing(node, owners_of(loaded)) if each.op_type == "If")
        remedy = explained(error, node, flavor, lowered=lowered, branch_of=next(outer, None))
    message = with_lines(message, everything)
    if isinstance(error, WorkerError):
        return type(error)(message, remedy, error.phase)
    return type(error)(message, remedy)


def _search(error: StageError, model: Path, attempt: Attempt, path: Path, count: int) -> tuple[int, int]:
    """How many nodes can be built, and how many cannot: one more, unless time ran out."""
    deadline = time.monotonic() + _SECONDS
    fine, failing = 0, count
    while failing - fine > 1 and time.monotonic() < deadline:
        middle = (fine + failing) // 2
        _write_first_nodes(model, middle, path)
        if _fails_equally(error, attempt, path):
            failing = middle
        else:
            fine = middle
    return fine, failing


def _fails_equally(error: StageError, attempt: Attempt, path: Path) -> bool:
    try:
        attempt(path)
    except WorkerError as other:  # the end of the log differs from crash to crash
        return type(other) is type(error)
    except TrtpipeError as other:
        return _shape(other.message) == _shape(error.message)
    return False


def _shape(message: str) -> str:
    """A message without the numbers and names that differ from graph to graph."""
    return re.sub(r"\d+", "#", message.partition(": ")[2])


def _write_first_nodes(model: Path, count: int, path: Path) -> None:
    """The first ``count`` nodes as a graph that returns what the others, or the user, would read."""
    loaded = _load(model)
    graph = loaded.graph
    nodes = list(graph)
    rest, owners = set(nodes[count:]), owners_of(loaded)
    public = set(graph.outputs)
    outputs = [
        value
        for node in nodes[:count]
        for value in node.outputs
        if value.dtype is not None and (value in public or _read_by(value, rest, owners))
    ]
    graph.outputs.clear()
    for node in reversed(nodes[count:]):
        graph.remove(node)  # stays in ``uses()`` of its inputs, which are not read again
    graph.outputs.extend(outputs)
    save_model(loaded, path)


def _read_by(value: ir.Value, nodes: set[ir.Node], owners: Mapping[ir.Graph, ir.Node]) -> bool:
    """Whether a value is read by one of ``nodes``, or inside a body of one."""
    for use in value.uses():
        node = use.node
        while isinstance(node.graph, ir.Graph) and node.graph in owners:
            node = owners[node.graph]
        if node in nodes:
            return True
    return False


def _load(model: Path) -> ir.Model:
    loaded = load_model(model)
    InferTypes().call(loaded)
    return loaded


def _named(message: str, nodes: list[ir.Node]) -> ir.Node | None:
    """The node that a message names: the first one in quotes, else the one with the longest name that looks like one.

    TensorRT extends names: ``Conv_0_12`` and ``Conv_0_OutputLayer`` are parts of ``Conv_0``.
    """
    named = [node for node in nodes if node.name]
    if quoted := next((node for node in named if f"'{node.name}'" in message), None):
        return quoted
    words = re.findall(r"[^\s'\"(),;:]+", message)
    begun = [
        node
        for node in named
        if re.search(r"[\d/_.]", str(node.name))
        and any(word == node.name or word.startswith(f"{node.name}_") for word in words)
    ]
    return max(begun, key=lambda node: len(str(node.name)), default=None)
