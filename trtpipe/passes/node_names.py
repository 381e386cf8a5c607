"""Names of nodes: which a user means; and the user's line that a node comes from."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx_ir as ir

#: Under this key of a node's metadata stands the user's line of PyTorch code, ``file.py:12``, where it is known.
SOURCE_LINE = "trtpipe.line"
#: Without one of these a shell pattern matches itself alone. Hundreds of names are compared quickly that way.
_WILD = re.compile(r"[*?[]")
#: Where PyTorch's exporter writes the stack trace, outermost frame first.
_TRACE = "pkg.torch.onnx.stack_trace"
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def pattern_of(name: str, patterns: Iterable[str]) -> str | None:
    """The first of ``patterns`` that means the node ``name``: its name as it stands, brackets and all, or a shell
    pattern that matches it.
    """
    for pattern in patterns:
        if name == pattern or (_WILD.search(pattern) and fnmatchcase(name, pattern)):
            return pattern
    return None


def line_of(node: ir.Node) -> str:
    """The user's line that a node was exported from, as ``file.py:12``; empty where its metadata does not tell."""
    if line := node.metadata_props.get(SOURCE_LINE, ""):
        return line
    frames = _FRAME.findall(node.metadata_props.get(_TRACE, ""))
    own = [frame for frame in frames if "/site-packages/torch/" not in frame[0]] or frames
    return f"{Path(own[-1][0]).name}:{own[-1][1]}" if own else ""


def lines_of(model: ir.Model) -> dict[str, str]:
    """Node name -> the user's line, for every node whose metadata tells it."""
    return {node.name: line for node in model.graph.all_nodes() if node.name and (line := line_of(node))}


def restore_lines(model: ir.Model, lines: Mapping[str, str]) -> None:
    """Give nodes that lost their metadata the user's line again, by their names."""
    for node in model.graph.all_nodes():
        line = lines.get(node.name or "", "")
        if line and not line_of(node):
            node.metadata_props[SOURCE_LINE] = line
