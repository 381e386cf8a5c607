"""onnxruntime's Attention and MultiHeadAttention, written as the products and the softmax they consist of.

Without what they keep between calls: a model with past keys and values needs these as inputs and outputs of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import array_of
from trtpipe.passes.writer import attribute

if TYPE_CHECKING:
    from trtpipe.passes.writer import Writer


@dataclass(frozen=True)
class _Masks:
    """What keeps positions from being attended to.

    Attributes:
        padding: of each sequence its length, [batch], or which positions count, [batch, keys]; integers.
        bias: what is added to the scores.
    """

    padding: ir.Value | None
    bias: ir.Value | None


def attention(w: Writer, given: list[ir.Value | None]) -> bool:
    """Attention of a sequence to itself, with one constant weight for queries, keys and values."""
    x, weight, bias, mask, past, added, *_ = given
    arrays = array_of(weight), array_of(bias)
    apart = w.node.attributes.get("qkv_hidden_sizes")
    if x is None or arrays[0] is None or (bias is not None and arrays[1] is None) or past is not None:
        return False
    if attribute(w.node, "do_rotary", 0) or _reads_past(w.node) or not _understood(mask, x):
        return False
    widths = [arrays[0].shape[1] // 3] * 3 if apart is None else list(apart.as_ints())
    cuts = np.cumsum(widths)[:2]
    parts = []
    for index, kernel in enumerate(np.split(arrays[0], cuts, axis=1)):
        part = w.op("MatMul", x, w.constant(kernel, x))
        if arrays[1] is not None:
            part = w.op("Add", part, w.constant(np.split(arrays[1], cuts)[index], x))
        parts.append(part)
    w.replace(_attended(w, parts, _Masks(mask, added), widths))
    return True


def multi_head_attention(w: Writer, given: list[ir.Value | None]) -> bool:
    """Attention to keys and values of three dimensions each."""
    query, key, value, bias, mask, added, *rest = given
    widths = [_width(each) for each in (query, key, value)]
    if query is None or key is None or value is None or any(each is not None for each in rest) or None in widths:
        return False
    if _reads_past(w.node) or not _understood(mask, query):
        return False
    known = [width for width in widths if width is not None]
    parts = [query, key, value]
    if bias is not None:
        whole = array_of(bias)
        if whole is None:
            return False
        shifts = np.split(whole, np.cumsum(known)[:2])
        parts = [w.op("Add", part, w.constant(shift, part)) for part, shift in zip(parts, shifts, strict=True)]
    w.replace(_attended(w, parts, _Masks(mask, added), known))
    return True


def _width(value: ir.Value | None) -> int | None:
    """The size of the last of three dimensions."""
    if value is None or value.shape is None or len(value.shape) != 3:
        return None
    last = value.shape[2]
    return last if isinstance(last, int) else None


def _reads_past(node: ir.Node) -> bool:
    return any(output.uses() or output.is_graph_output() for output in node.outputs[1:])


def _understood(mask: ir.Value | None, x: ir.Value) -> bool:
    """Whether it is clear what a mask means: of one dimension it may hold lengths, or lengths and starts."""
    if mask is None:
        return True
    if mask.shape is None or x.shape is None:
        return False
    return len(mask.shape) == 2 or (len(mask.shape) == 1 and mask.shape[0] == x.shape[0])


def _attended(w: Writer, parts: list[ir.Value], masks: _Masks, widths: list[int]) -> ir.Value:
    """[batch, queries, width of values] of queries, keys and values, each [batch, positions, width]."""
    heads = int(attribute(w.node, "num_heads", 1))
    query, key, value = (
        w.op("Transpose", w.reshaped(part, [0, 0, heads, width // heads]), having={"perm": order})
        for part, width, order in zip(parts, widths, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    scale = attribute(w.node, "scale", 0) or 1 / sqrt(widths[0] // heads)
    scores = w.op("Mul", w.op("MatMul", query, key), w.constant(scale, query))
    if masks.bias is not None:
        scores = w.op("Add", scores, masks.bias)
    hidden = attribute(w.node, "mask_filter_value", -10000.0)
    if masks.padding is not None:
        counts = _counting(w, masks.padding, parts[1])
        scores = w.op(
            "Add", scores, w.op("Mul", w.op("Sub", w.constant(1, scores), counts), w.constant(hidden, scores))
        )
    if attribute(w.node, "unidirectional", 0):
        scores = w.op("Add", scores, _causal(w, parts[0], scores))
    mixed = w.op("MatMul", w.op("Softmax", scores, having={"axis": -1}), value)
    return w.reshaped(w.op("Transpose", mixed, having={"perm": [0, 2, 1, 3]}), [0, 0, widths[2]])


def _positions(w: Writer, sequence: ir.Value) -> ir.Value:
    """int64[positions]: 0, 1, ..."""
    length = w.op("Gather", w.op("Shape", sequence, dtype=ir.DataType.INT64), w.constant(1), having={"axis": 0})
    return w.op("Range", w.constant(0), length, w.constant(1))


def _counting(w: Writer, padding: ir.Value, keys: ir.Value) -> ir.Value:
    """[batch, 1, 1, keys]: 1 for keys that count, else 0."""
    assert padding.shape is not None and keys.dtype is not None  # noqa: PT018
    if len(padding.shape) == 1:
        lengths = w.reshaped(w.cast(padding, ir.DataType.INT64), [-1, 1])
        padding = w.op("Less", w.reshaped(_positions(w, keys), [1, -1]), lengths, dtype=ir.DataType.BOOL)
    else:  # any number above 0 keeps a key
        whole = w.cast(padding, ir.DataType.INT64)
        padding = w.op("Greater", whole, w.constant(0), dtype=ir.DataType.BOOL)
    return w.unsqueezed(w.cast(padding, keys.dtype), [1, 2])


def _causal(w: Writer, sequence: ir.Value, scores: ir.Value) -> ir.Value:
    """[queries, queries]: 0 for keys that are not later than the query, else a large negative number."""
    positions = _positions(w, sequence)
    later = w.op("Greater", w.reshaped(positions, [1, -1]), w.reshaped(positions, [-1, 1]), dtype=ir.DataType.BOOL)
    kind = ir.DataType.FLOAT if scores.dtype is None else scores.dtype
    return w.op("Mul", w.cast(later, kind), w.constant(-10000.0, scores))
