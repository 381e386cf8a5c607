"""Names of nodes after the modules that they come from: ``layer1.0.conv1``, so that ``--keep 'layer1*'`` works.

Torch's exporter writes the path of the module and the stack trace of each node into the node's metadata.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from typing import TYPE_CHECKING

from trtpipe.exporter.loading import COMPILED
from trtpipe.exporter.naming import strip_metadata
from trtpipe.exporter.places import place_of_trace
from trtpipe.passes.graph_pass import FreshNames
from trtpipe.passes.node_names import SOURCE_LINE

if TYPE_CHECKING:
    import onnx_ir as ir

_SCOPES, _TRACE = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.stack_trace"


def name_nodes(model: ir.Model, inner: str) -> None:
    """Name nodes after their modules, and initializers after the user's parameters.

    The node of a module that multiplies by its weight has the module's path as its name, as have all nodes of a module
    without submodules that are of one type; others have the operator's type behind it: ``layer1.0/Add``. What comes
    from the outermost module itself keeps torch's name.

    Args:
        inner: the path of the user's module in what was exported; empty if it is that.
    """
    nodes = list(model.graph.all_nodes())
    paths = {node: _path(node, inner) for node in nodes}
    groups: dict[str, list[ir.Node]] = defaultdict(list)
    for node, path in paths.items():
        groups[path].append(node)
    parents = {path.rpartition(".")[0] for path in groups}
    taken = {str(node.name) for node in groups.pop("", [])}
    for path, group in groups.items():
        single = path not in parents and len({node.op_type for node in group}) == 1
        for node in group:
            node.name = _unique(path if single or _weighted(node) else f"{path}/{node.op_type}", taken)
    fresh = FreshNames(model)
    for name, value in list(model.graph.initializers.items()):
        wanted = _without(name, inner)
        if wanted != name:
            value.name = fresh(wanted)


def keep_lines_alone(model: ir.Model) -> None:
    """Remove all metadata, and keep the user's line of each node, ``file.py:12``."""
    traces = [(node, node.metadata_props.get(_TRACE, "")) for node in model.graph.all_nodes()]
    strip_metadata(model)
    for node, trace in traces:
        if (place := place_of_trace(trace)) is not None:
            node.metadata_props[SOURCE_LINE] = f"{place.file}:{place.line}"


def _path(node: ir.Node, inner: str) -> str:
    """The path of the module that a node comes from; empty for the outermost."""
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    return _without(str(scopes[-2]), inner) if len(scopes) > 1 else ""


def _without(path: str, inner: str) -> str:
    """A path in the user's module, of one in what was exported."""
    path = path.replace(f"{COMPILED}.", "").removesuffix(f".{COMPILED}")
    if not inner or path == inner:
        return "" if path == inner else path
    return path.removeprefix(f"{inner}.")


def _weighted(node: ir.Node) -> bool:
    """Whether it reads a constant of two or more dimensions."""
    constants = [value.const_value for value in node.inputs if value is not None]
    return any(constant is not None and len(constant.shape) > 1 for constant in constants)


def _unique(wanted: str, taken: set[str]) -> str:
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name
