"""Error compensation of rounded weights: what rounding one weight changes, those that are rounded after it make up for.

The weights of an output are rounded one after the other, those with the largest inputs first. Each error is spread over
the weights still to be rounded, such that the output changes least on the samples: with ``R R^T`` the second moments of
the inputs, and ``R`` upper triangular, weight ``j`` moves by ``error R[i, j] / R[j, j]``. That is the same as with the
Cholesky factor of their inverse, as the first paper has it, at a third of the cost.
Frantar et al. 2022, "GPTQ", arXiv:2210.17323, algorithm 1; for convolutions, whose inputs are the windows of a map,
Frantar and Alistarh 2022, "Optimal Brain Compression", arXiv:2208.11580. Nothing is trained.

The moments are sums of products of 8-bit numbers, which are exact: no order of sums, hence no number of threads, can
change them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtpipe.calibration.corrections import packed_steps
from trtpipe.passes.constants import array_of
from trtpipe.passes.graph_pass import enclosing, owners_of
from trtpipe.quantization.plan import bound
from trtpipe.quantization.qdq import quantize_weight, rounded, steps_between

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtpipe.artifact import Feed
    from trtpipe.quantization.plan import QuantizationPlan, QuantPoint

#: Rows of inputs for each weight: over all feeds, and of one feed at most, so that sums of products stay below 2**24.
_ROWS, _FEED_ROWS = 2048, 512
#: Bytes of moments, and weights in all; layers with the fewest weights to an output come first.
_MOMENT_BYTES, _MOST_WEIGHTS = 64 << 20, 64 << 20
#: What is added to the moments of every input, as a share of their mean.
_DAMPING = 0.01
#: Weights of an output after which the others are updated; fewer would cost memory traffic.
_BLOCK = 64


@dataclass(frozen=True, eq=False)
class Layer:
    """A node whose weight can be compensated, in the graph that is about to be quantized.

    Attributes:
        source: name of the value it multiplies its weight with.
        weight: float32[groups, outputs, inputs]: every output is a sum over its inputs.
        shape: of the constant.
        windows: strides, dilations and pads of a convolution; empty for a product.
        by_rows: whether the outputs of a product come first in the constant.
    """

    point: QuantPoint
    source: str
    weight: np.ndarray
    shape: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...] = ()
    by_rows: bool = True

    @classmethod
    def of(cls, point: QuantPoint, node: ir.Node) -> Layer | None:
        """The layer of a node, or ``None`` where its weight has another form or other readers."""
        value = node.inputs[point.weight] if point.weight == 1 else None
        kernel, source = array_of(value), node.inputs[0]
        if value is None or kernel is None or source is None or len(value.uses()) != 1:
            return None
        if node.op_type == "Conv" and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET":
            rank, groups = kernel.ndim - 2, node.attributes.get_int("group", 1)
            windows = tuple(
                tuple(node.attributes.get_ints(name, default))
                for name, default in (("strides", (1,) * rank), ("dilations", (1,) * rank), ("pads", (0, 0) * rank))
            )
            weight = kernel.reshape(groups, kernel.shape[0] // groups, -1)
            return cls(point, str(source.name), weight, kernel.shape, windows)
        if node.op_type not in ("Gemm", "MatMul") or kernel.ndim != 2 or node.attributes.get_int("transA", 0) != 0:
            return None
        rows = point.axis == 0
        return cls(point, str(source.name), (kernel if rows else kernel.T)[None], kernel.shape, (), rows)

    @property
    def kernel(self) -> np.ndarray:
        """The constant."""
        return self.as_constant(self.weight)

    def as_constant(self, weight: np.ndarray) -> np.ndarray:
        """[groups, outputs, inputs] in the shape of the constant."""
        constant: np.ndarray = weight.reshape(self.shape) if self.windows or self.by_rows else weight[0].T
        return constant

    def as_weight(self, constant: np.ndarray) -> np.ndarray:
        """An array of the shape of the constant as [groups, outputs, inputs]."""
        whole = constant if self.windows or self.by_rows else constant.T
        weight: np.ndarray = whole.reshape(self.weight.shape)
        return weight

    def rows(self, value: np.ndarray, most: int) -> np.ndarray:
        """float32[groups, at most so many rows, inputs]: what outputs are sums of, evenly spread over ``value``."""
        if not self.windows:
            found = value.reshape(-1, value.shape[-1])
            chosen: np.ndarray = found[_spread(len(found), most)]
            return chosen[None]
        strides, dilations, pads = self.windows
        kernel, rank = self.shape[2:], len(strides)
        value = np.pad(value, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
        sizes = [
            (size - dilation * (length - 1) - 1) // stride + 1
            for size, length, stride, dilation in zip(value.shape[2:], kernel, strides, dilations, strict=True)
        ]
        count = value.shape[0] * int(np.prod(sizes))
        sample, *corner = np.unravel_index(_spread(count, most), (value.shape[0], *sizes))
        offsets = np.indices(kernel).reshape(rank, -1)
        places = [
            at[:, None] * stride + offset[None] * dilation
            for at, stride, offset, dilation in zip(corner, strides, offsets, dilations, strict=True)
        ]
        where = (sample[:, None], *places)
        channels = np.moveaxis(value, 1, -1)[where]  # [rows, places in the window, channels]
        rows: np.ndarray = channels.swapaxes(1, 2).reshape(len(sample), len(self.weight), -1).swapaxes(0, 1)
        return rows


def compensable(model: ir.Model, plan: QuantizationPlan) -> tuple[Layer, ...]:
    """The layers that can be compensated, in graph order.

    Args:
        plan: of ``model`` as it is: its smoothing has been applied.
    """
    owners = owners_of(model)
    layers = (
        Layer.of(point, node)
        for point, node in bound(model, plan.points)
        if all(owner.op_type == "If" for owner in enclosing(node, owners))
    )
    known = [layer for layer in layers if layer is not None and layer.weight.size]
    moments, weights, found = 0, 0, set[str]()
    for layer in sorted(known, key=_moment_bytes):
        moments, weights = moments + _moment_bytes(layer), weights + layer.weight.size
        if moments <= _MOMENT_BYTES and weights <= _MOST_WEIGHTS:
            found.add(layer.point.result)
    return tuple(layer for layer in known if layer.point.result in found)


def find_steps(layers: tuple[Layer, ...], plan: QuantizationPlan, values: Iterator[Feed], count: int) -> dict[str, str]:
    """What to add to the rounded weights, in steps of the format: result of a node -> packed, as its constant.

    Args:
        layers: from ``compensable``.
        values: of ``count`` feeds, the values that the layers read.
    """
    most = min(max(_ROWS // max(count, 1), 1), _FEED_ROWS)
    moments = {layer.point.result: np.zeros(()) for layer in layers}
    for found in values:
        for layer in layers:
            if found[layer.source].size:
                moments[layer.point.result] = moments[layer.point.result] + _moments(
                    layer.rows(found[layer.source], most)
                )
    steps: dict[str, str] = {}
    for layer in layers:
        moment = moments.pop(layer.point.result)
        if moment.any():
            codes, better = _compensated(layer, plan, moment)
            steps[layer.point.result] = packed_steps(steps_between(codes, layer.as_constant(better), plan.format))
    return steps


def _nearest(layer: Layer, plan: QuantizationPlan) -> tuple[np.ndarray, np.ndarray]:
    """The constant rounded to the nearest, and its scales as float32[groups, outputs, 1]."""
    axis = layer.point.axis if plan.format.granularity == "channel" else None
    codes, scale = quantize_weight(layer.kernel, axis, plan.format, plan.weights, plan.scales)
    return codes, np.broadcast_to(scale.reshape(-1), layer.weight[..., 0].size).reshape(*layer.weight.shape[:2], 1)


def _moments(rows: np.ndarray) -> np.ndarray:
    """float64[groups, inputs, inputs]: sums of products over the rows, of 8 bits of each input."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    unit = np.exp2(np.ceil(np.log2(np.where(largest > 0, largest, 1))) - 7).astype(np.float32)
    whole = np.rint(rows / unit)
    sums: np.ndarray = (whole.swapaxes(1, 2) @ whole).astype(np.float64) * unit * unit.swapaxes(1, 2)
    return sums


def _compensated(layer: Layer, plan: QuantizationPlan, moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The constant rounded to the nearest; and [groups, outputs, inputs] with the errors compensated, in units."""
    codes, scale = _nearest(layer, plan)
    power = np.einsum("gkk->gk", moments)
    order = np.argsort(-power, axis=1, kind="stable")
    size = moments.shape[-1]
    damped = np.take_along_axis(np.take_along_axis(moments, order[:, :, None], 1), order[:, None, :], 2)
    damped[:, range(size), range(size)] += _DAMPING * np.maximum(power.mean(axis=1), np.finfo(np.float32).tiny)[:, None]
    factor = np.linalg.cholesky(damped[:, ::-1, ::-1])[:, ::-1, ::-1]
    factor /= np.einsum("gkk->gk", factor)[:, None, :].copy()
    weight = np.take_along_axis(layer.weight.astype(np.float64), order[:, None, :], 2).swapaxes(1, 2).copy()
    wanted, found, step = weight.copy(), np.empty_like(weight), scale[:, :, 0]
    for begin in range(0, size, _BLOCK):
        end = min(begin + _BLOCK, size)
        for index in range(begin, end):
            found[:, index] = rounded(wanted[:, index], step, plan.format)
            error = weight[:, index] - found[:, index] * step
            wanted[:, index + 1 : end] += factor[:, index, index + 1 : end, None] * error[:, None]
        errors = weight[:, begin:end] - found[:, begin:end] * step[:, None]
        wanted[:, end:] += factor[:, begin:end, end:].swapaxes(1, 2) @ errors
    return codes, np.take_along_axis(found, np.argsort(order, axis=1)[:, :, None], 1).swapaxes(1, 2)


def _moment_bytes(layer: Layer) -> int:
    return int(8 * layer.weight.shape[0] * layer.weight.shape[2] ** 2)


def _spread(count: int, most: int) -> np.ndarray:
    """At most so many of the first ``count`` numbers, evenly spread."""
    return np.arange(count) if count <= most else np.arange(most) * count // most
