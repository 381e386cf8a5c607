"""Where quantization is not profitable, although it is possible.

A matrix product in 8 bits is cheaper because a tensor core sums twice as many products at once: ``mma.m16n8k32`` for
8 bits against ``mma.m16n8k16`` for 16 (NVIDIA, PTX ISA, warp-level matrix instructions). A product that sums fewer
than 16 gains nothing: the rest is padding. A weight with few columns, or an activation with one row, is read for so
little arithmetic that memory decides, and rounding the activation costs a pass over it. ModelOpt draws the same lines
(depth or width below 16; a matrix times a vector).

These are matters of cost, not of correctness, so they never cost a model its point: nodes are kept in higher precision
by these rules, cheapest first, as long as 95 % of all multiply-accumulates are quantized without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from trtpipe.passes.macs import Work

#: Least products summed, and least output channels, for quantization to be profitable.
LEAST_DEPTH = LEAST_WIDTH = 16
#: Least share of the multiply-accumulates of Conv, ConvTranspose, Gemm and MatMul to have in 8 bits.
LEAST_SHARE = 0.95


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
