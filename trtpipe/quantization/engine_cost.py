"""What an engine costs, estimated from its report by the roofline model (Williams, Waterman, Patterson 2009) for every
kernel: it takes as long as the bytes it moves, or as the arithmetic it does, whichever is longer; and every kernel has
a fixed price. All is said in bytes, as time times memory bandwidth, so no clock enters. The constants are round figures
of the GPUs that TensorRT serves (data sheets of RTX 3090 to H200: 75 to 330 dense float16 operations in the time of one
byte, twice that or more in 8 bits; a launch is one or two microseconds). They rank candidates; they predict no latency.
"""

from __future__ import annotations

from math import prod, sqrt
from typing import TYPE_CHECKING

from trtpipe.config.formats import FORMATS, FP32

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from trtpipe.engine.report import EngineLayer, EngineReport, EngineTensor

#: Operations that tensor cores do in the time in which memory moves one byte, by the type they read.
_OPERATIONS: dict[str, float] = {word: 64 * FP32.bits / form.bits for form in FORMATS for word in form.engine}
_OTHER_OPERATIONS = 64.0
#: What launching one kernel costs, in bytes.
KERNEL_BYTES = 1_000_000


def engine_cost(report: EngineReport) -> float:
    """The cost of all kernels, in bytes."""
    return sum(layer_cost(layer, report.free) for layer in report.kernels)


def layer_cost(layer: EngineLayer, free: int) -> float:
    """The cost of one kernel, in bytes, with dynamic dimensions ``free`` long."""
    moved = sum(tensor.bytes(free) for tensor in (*layer.inputs, *layer.constants, *layer.outputs))
    speed = _OPERATIONS.get(layer.computes_in, _OTHER_OPERATIONS)
    return KERNEL_BYTES + max(float(moved), operations(layer, free) / speed)


def operations(layer: EngineLayer, free: int) -> float:
    """Multiplications and additions of a convolution or matrix product; 0 for other kernels."""
    if not layer.is_conv_gemm or not layer.inputs or not layer.outputs:
        return 0.0
    data, *others = (_sizes(tensor, free) for tensor in layer.inputs)
    size, result = prod(data), prod(_sizes(layer.outputs[0], free))
    weight = max((_sizes(tensor, free) for tensor in layer.constants), key=prod, default=[])
    if weight and layer.kind == "correlation":
        return 2.0 * result * prod(weight[1:])  # [out, in / group, ...]
    if len(weight) > 1:  # M K, K N and M N elements, in whatever layout
        return 2.0 * sqrt(size * result * prod(weight))
    if others and data and size:  # a batch of M K by K N; attention's kernel does two of these
        columns = prod(others[0]) / (prod(data[:-2]) * data[-1])
        return (2 if layer.is_attention else 1) * 2.0 * size * columns
    return 0.0


def costs_by_node(reports: Iterable[EngineReport], nodes: Collection[str]) -> dict[str, float]:
    """The cost of the kernels around each of ``nodes``, in bytes, the sum over the reports.

    A kernel with several of them counts in equal parts; one with none of them counts for those whose results it reads,
    as what comes after a convolution is part of its price, or else for those that read its results.
    """
    costs = dict.fromkeys(nodes, 0.0)
    for report in reports:
        for layer, owners in _owners(report.kernels, frozenset(nodes)):
            for node in owners:
                costs[node] += layer_cost(layer, report.free) / len(owners)
    return costs


def _owners(layers: Sequence[EngineLayer], nodes: frozenset[str]) -> list[tuple[EngineLayer, frozenset[str]]]:
    """Each layer with those of ``nodes`` it counts for."""
    own = [nodes & set(layer.nodes) for layer in layers]
    makers: dict[str, frozenset[str]] = {}
    for index, layer in enumerate(layers):
        own[index] = own[index] or frozenset().union(*(makers.get(tensor.name, frozenset()) for tensor in layer.inputs))
        makers |= {tensor.name: own[index] for tensor in layer.outputs}
    readers: dict[str, frozenset[str]] = {}
    for index in reversed(range(len(layers))):
        layer = layers[index]
        results = (readers.get(tensor.name, frozenset()) for tensor in layer.outputs)
        own[index] = own[index] or frozenset().union(*results)
        for tensor in layer.inputs:
            readers[tensor.name] = readers.get(tensor.name, frozenset()) | own[index]
    return list(zip(layers, own, strict=True))


def _sizes(tensor: EngineTensor, free: int) -> list[int]:
    return [free if dim < 0 else dim for dim in tensor.dims]
