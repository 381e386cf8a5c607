"""Which quantized tensors share one scale.

TensorRT moves a Q back through nodes that only move values, and merges it with the one it meets there, if their scales
are equal; otherwise both stay as kernels of their own (NVIDIA, "Working with Quantized Types": rewrites that compare
scales). So tensors between which values only move, Concat included, get one scale: the largest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtpipe.passes.operators import moved_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir


def scale_groups(quantized: Sequence[ir.Value]) -> tuple[tuple[str, ...], ...]:
    """Names of the tensors of every group of two or more, in the order of ``quantized``."""
    leader = {value: value for value in quantized}

    def find(value: ir.Value) -> ir.Value:
        while leader[value] is not value:
            value = leader[value]
        return value

    for value in quantized:
        for source in _sources(value):
            if source in leader:
                leader[find(value)] = find(source)
    groups: dict[ir.Value, list[str]] = {}
    for value in quantized:
        groups.setdefault(find(value), []).append(value.name or "")
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def joint_amax(amax: Mapping[str, float], groups: Sequence[Sequence[str]]) -> dict[str, float]:
    """The ranges with every group's largest for each of its members; members without a range stay without."""
    joint = dict(amax)
    for group in groups:
        known = [amax[name] for name in group if name in amax]
        joint.update({name: max(known) for name in group if name in amax})
    return joint


def _sources(value: ir.Value) -> set[ir.Value]:
    """The values whose elements ``value`` consists of, by way of nodes that only move them."""
    found: set[ir.Value] = set()
    queue = [value]
    for current in queue:
        node = current.producer()
        for source in moved_values(node) if node is not None else ():
            if source not in found:
                found.add(source)
                queue.append(source)
    return found
