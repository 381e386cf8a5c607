"""The work of a weighted node, and where quantization is not profitable, although it is possible.

The work is the number of multiply-accumulates, and the matrix product the node corresponds to.

A matrix product in 8 bits is cheaper because a tensor core sums twice as many products at once: ``mma.m16n8k32`` for
8 bits against ``mma.m16n8k16`` for 16 (NVIDIA, PTX ISA, warp-level matrix instructions). A product that sums fewer
than 16 gains nothing: the rest is padding. A weight with few columns, or an activation with one row, is read for so
little arithmetic that memory decides, and rounding the activation costs a pass over it. ModelOpt draws the same lines
(depth or width below 16; a matrix times a vector).

These are matters of cost, not of correctness, so they never cost a model its point: nodes are kept in higher precision
by these rules, cheapest first, as long as 95 % of all multiply-accumulates are quantized without them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtpipe.passes.decisions import LEAST_SHARE
from trtpipe.passes.operators import RECURRENT, WEIGHTED, is_standard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Least products summed, and least output channels, for quantization to be profitable.
LEAST_DEPTH = LEAST_WIDTH = 16


@dataclass(frozen=True)
class Work:
    """A weighted node as a matrix product ``[rows, depth] x [depth, width]``.

    Attributes:
        macs: multiply-accumulates; unknown dimensions count as 1.
        rows: results that share a weight (batch, positions); ``None`` where a dimension is not fixed.
        depth: products summed for one result.
        width: output channels, in all groups.
        channelwise: a convolution with one input channel a group, which is no matrix product.
    """

    macs: int
    rows: int | None
    depth: int
    width: int
    channelwise: bool = False


#: Metadata of a node: its multiply-accumulates at the typical shapes, where ``count_macs`` found them.
MACS = "trtpipe.macs"


def work_of(node: ir.Node, sizes: Mapping[str, int] | None = None) -> Work | None:
    """The work of a weighted node; ``None`` for other nodes, and where the shape of neither operand is known.

    Args:
        node: any node; shapes must be inferred. A count among its metadata takes precedence.
        sizes: name of a symbolic dimension -> its size.
    """
    work = _work(node, sizes)
    counted = node.metadata_props.get(MACS, "")
    return replace(work, macs=int(counted)) if work is not None and counted.isdecimal() else work


def recurrent_macs(node: ir.Node) -> int | None:
    """Multiply-accumulates of an LSTM, GRU or RNN: both weights, once for every step of every sequence.

    ``None`` for other nodes, and where the shape of an input is not known. A count among its metadata takes precedence.
    """
    if node.op_type not in RECURRENT or not is_standard(node) or len(node.inputs) < 3:
        return None
    counted = node.metadata_props.get(MACS, "")
    if counted.isdecimal():
        return int(counted)
    data, weight, recurrence = (_shape(value, {}) for value in node.inputs[:3])
    if not data or None in data or not _fixed(weight) or not _fixed(recurrence):
        return None
    return _count(data[:2]) * (_count(weight) + _count(recurrence))


def _work(node: ir.Node, sizes: Mapping[str, int] | None) -> Work | None:
    if node.op_type not in WEIGHTED or not is_standard(node) or len(node.inputs) < 2:
        return None
    known = sizes or {}
    kernel = _shape(node.inputs[1], known)
    data, result = _shape(node.inputs[0], known), _shape(node.outputs[0], known)
    if node.op_type == "Conv":
        return _convolution(node, kernel, result, kernel[0] if kernel else None)
    if node.op_type == "ConvTranspose":
        width = kernel[1] if kernel else None
        groups = node.attributes.get_int("group", 1)
        work = _convolution(node, kernel, data, width * groups if width is not None else None)
        return work and Work(work.macs, work.rows, _count(kernel[:1]) // groups, work.width, work.channelwise)
    return _product(node, data, kernel, result)


def sizes_of(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Symbolic dimension -> its size, where inputs have the shapes ``shapes``."""
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        for dim, size in zip(value.shape or (), shapes.get(value.name or "", ()), strict=False):
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                found.setdefault(dim.value, size)
    return found


_Shape = tuple[int | None, ...]


def _shape(value: ir.Value | None, sizes: Mapping[str, int]) -> _Shape:
    """The sizes of a value; empty where its rank is unknown."""
    if value is None or value.shape is None:
        return ()
    return tuple(size if isinstance(size, int) else sizes.get(size.value or "") for size in value.shape)


def _count(shape: _Shape) -> int:
    """The number of elements; what is unknown counts as 1."""
    return prod(size or 1 for size in shape)


def _fixed(shape: _Shape) -> int | None:
    return None if not shape or None in shape else _count(shape)


def _convolution(node: ir.Node, kernel: _Shape, positions: _Shape, width: int | None) -> Work | None:
    """``positions``: the side of the convolution on which every element meets the whole kernel of its group."""
    if not kernel or width is None:
        return None
    depth = _count(kernel[1:])
    channels = positions[1] if len(positions) > 1 else None
    spread = _count(positions) if positions else (channels or kernel[0] or 1)
    rows = _fixed((*positions[:1], *positions[2:])) if positions else None
    groups = node.attributes.get_int("group", 1)
    single = kernel[0] == groups if node.op_type == "ConvTranspose" else kernel[1] == 1
    return Work(spread * depth, rows, depth, width, channelwise=groups > 1 and single)


def _product(node: ir.Node, left: _Shape, right: _Shape, result: _Shape) -> Work | None:
    if node.op_type == "Gemm":
        left = left[::-1] if node.attributes.get_int("transA", 0) else left
        right = right[::-1] if node.attributes.get_int("transB", 0) else right
    depth = (left[-1] if left else None) or (right[-2] if len(right) > 1 else _count(right[:1]) if right else None)
    if depth is None or not (left or right):
        return None
    width = right[-1] if len(right) > 1 else 1
    rows = _fixed(left[:-1]) if left else None
    if not result:
        result = (*left[:-1], width)
    return Work(_count(result) * depth, rows, depth, width or 0)


def unprofitable(work: Work | None) -> str | None:
    """Why quantization is not profitable for a node with this work; ``None`` if it is, or the work is unknown."""
    if work is None or work.channelwise:  # one filter a channel: no tensor core either way, and fewer bytes
        return None
    if work.depth < LEAST_DEPTH:
        return f"quantization not profitable: it sums {work.depth} products a result, fewer than {LEAST_DEPTH}"
    if work.width < LEAST_WIDTH:
        return f"quantization not profitable: {work.width} output channels, fewer than {LEAST_WIDTH}"
    if work.rows == 1:
        return "quantization not profitable: a matrix times a single vector"
    return None


def skipped(
    order: Sequence[ir.Node], works: Mapping[ir.Node, Work], reasons: Mapping[ir.Node, str], kept: int
) -> dict[ir.Node, str]:
    """The nodes kept in higher precision because quantization is not profitable, with the reason.

    Args:
        order: all weighted nodes that could be quantized.
        works: the work of every weighted node.
        reasons: why quantization is not profitable for some of them.
        kept: multiply-accumulates kept in higher precision for other reasons.
    """
    allowed = (1 - LEAST_SHARE) * sum(work.macs for work in works.values()) - kept
    found: dict[ir.Node, str] = {}
    for node in sorted((node for node in order if node in reasons), key=lambda node: works[node].macs):
        allowed -= works[node].macs
        if allowed < 0:
            break
        found[node] = reasons[node]
    return found
