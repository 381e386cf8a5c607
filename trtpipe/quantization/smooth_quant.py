"""SmoothQuant: divide the channels of an activation by a factor each, and multiply the weights that read it instead.

``x W = (x / s) (s W)`` with one factor ``s`` per input channel. Activations have one scale for all channels, weights
one per output channel: a channel much larger than the rest costs the activation its resolution, but the weights next
to nothing. With ``a`` and ``w`` the largest magnitudes of the channel in activation and weights and a strength between
0 and 1, ``s = a ** strength / w ** (1 - strength)``, times a constant.
Xiao et al. 2023, "SmoothQuant", arXiv:2211.10438, equations 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.passes.constants import add_constant, array_of, drop_unused_constants
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, owners_of
from trtpipe.quantization.bias_correction import in_branches_only
from trtpipe.quantization.smooth_folds import Scaling, foldable, pointwise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtpipe.quantization.plan import Placement, QuantPoint

#: Channels whose largest magnitude is below this share of the tensor's count as so large: a factor divides by it.
_LEAST_SHARE = 1e-5


@dataclass(frozen=True, eq=False)
class Factors:
    """What the channels of one activation are divided by.

    Attributes:
        values: float32[channels], above 0.
        inserted: by a multiplication; otherwise by folding.
    """

    values: np.ndarray
    inserted: bool


@dataclass(frozen=True)
class SmoothGroup:
    """An activation whose channels can be evened out.

    Attributes:
        value: the activation, read in 8 bits.
        axis: its channel axis.
        readers: the weighted nodes that read it, and for each the axis of its weight along which the channels lie.
        folds: constants before it that take the reciprocal factors; ``None`` if a multiplication has to be inserted.
    """

    value: ir.Value
    axis: int
    readers: tuple[tuple[QuantPoint, int], ...]
    folds: tuple[Scaling, ...] | None

    @property
    def name(self) -> str:
        """The activation's name."""
        return self.value.name or ""

    @property
    def channels(self) -> int:
        """How many there are."""
        point, axis = self.readers[0]
        return int(_kernel(point).shape[axis])

    def weight_maxima(self) -> np.ndarray:
        """float32[channels]: the largest magnitude of the weights that each channel meets."""
        found = []
        for point, axis in self.readers:
            rows = np.moveaxis(np.abs(_kernel(point)), axis, 0)
            found.append(rows.reshape(rows.shape[0], -1).max(axis=1))
        largest: np.ndarray = np.max(found, axis=0)
        return largest


def smooth_groups(model: ir.Model, placement: Placement) -> tuple[SmoothGroup, ...]:
    """What can be evened out for free, or for one multiplication, in graph order.

    1. All nodes that read the activation in 8 bits have constant weights, and their channels are told apart.
    2. The reciprocal factors fold into constants before it (see ``foldable``), which nothing else feels. Or it goes
       into matrix products, and a normalization or a pointwise operator made it: then a multiplication is inserted,
       which fuses with that operator and with the quantization.
    3. It is no tensor of a loop's body, whose channels cannot be observed.
    """
    owners = owners_of(model)
    readers: dict[ir.Value, list[QuantPoint]] = {}
    for point in placement.points:
        for value in point.values if in_branches_only(point.node, owners) else ():
            readers.setdefault(value, []).append(point)
    found = (_group(value, points) for value, points in readers.items())
    return tuple(group for group in found if group is not None)


def smoothing_factors(activations: np.ndarray, weights: np.ndarray, strength: float) -> np.ndarray:
    """float32[channels] above 0, such that the activation's largest magnitude stays what it is.

    Args:
        activations, weights: the largest magnitudes of every channel.
        strength: 0 leaves all unevenness in the activation, 1 moves all of it into the weights.
    """
    a, w = _bounded(activations), _bounded(weights)
    logarithm = strength * np.log(a) - (1 - strength) * np.log(w)
    spread = np.log(a) - logarithm
    factors: np.ndarray = np.exp(logarithm + spread.max() - np.log(a).max()).astype(np.float32)
    return factors


class Smooth(GraphPass):
    """Even out activations by given factors; in float32 the model computes what it did, up to rounding.

    Args:
        wanted: activation -> its factors; those that are no such group of ``placement`` are ignored.
        placement: of the model that the pass is applied to.

    Attributes:
        renamed: activation that was evened out -> the tensor that is quantized in its place.
    """

    name = "smooth"

    def __init__(self, wanted: Mapping[str, Factors], placement: Placement) -> None:
        self._wanted = wanted
        self._placement = placement
        self.renamed: dict[str, str] = {}

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the constants."""
        fresh = FreshNames(model)
        for group in smooth_groups(model, self._placement):
            found = self._wanted.get(group.name)
            if found is not None and found.inserted == (group.folds is None) and found.values.size == group.channels:
                self.renamed[group.name] = _smooth(group, found.values, fresh)
        drop_unused_constants(model)
        return PassResult(self.name, modified=bool(self.renamed))


def _group(value: ir.Value, points: list[QuantPoint]) -> SmoothGroup | None:
    readers = [(point, axis) for point in points if (axis := _input_axis(point)) is not None]
    axes = {1 if point.node.op_type.startswith("Conv") else -1 for point, _ in readers}
    if len(readers) < len(points) or len(axes) != 1:
        return None
    if len({_kernel(point).shape[axis] for point, axis in readers}) != 1:
        return None
    axis, channels = axes.pop(), int(_kernel(points[0]).shape[readers[0][1]])
    if {use.node for use in value.uses()} == {point.node for point in points} and not value.is_graph_output():
        folds = foldable(value, axis, channels)
        if folds is not None:
            return SmoothGroup(value, axis, tuple(readers), folds)
    inserted = axis == -1 and pointwise(value) and all(point.node.graph is value.graph for point in points)
    return SmoothGroup(value, axis, tuple(readers), None) if inserted else None


def _input_axis(point: QuantPoint) -> int | None:
    """The axis of the weight along which the input channels lie; ``None`` where they cannot be told apart."""
    node = point.node
    if point.weight != 1:
        return None
    kernel = _kernel(point)
    attribute = node.attributes.get("group")
    groups = 1 if attribute is None else attribute.as_int()
    if node.op_type == "Conv":
        if groups == 1:
            return 1
        return 0 if groups == kernel.shape[0] and kernel.shape[1] == 1 else None
    if node.op_type == "ConvTranspose":
        return 0 if groups == 1 else None
    if node.op_type == "Gemm":
        if (flag := node.attributes.get("transA")) is not None and flag.as_int():
            return None
        flag = node.attributes.get("transB")
        return 1 if flag is not None and flag.as_int() else 0
    return 0 if kernel.ndim == 2 else None


def _kernel(point: QuantPoint) -> np.ndarray:
    array = array_of(point.node.inputs[1])
    assert array is not None
    return array


def _bounded(maxima: np.ndarray) -> np.ndarray:
    """float64, with next to nothing raised to a share of the largest; all 1 where all are 0."""
    maxima = np.asarray(maxima, np.float64)
    largest = maxima.max(initial=0.0)
    return np.maximum(maxima, _LEAST_SHARE * largest) if largest else np.ones_like(maxima)


def _smooth(group: SmoothGroup, factors: np.ndarray, fresh: FreshNames) -> str:
    for point, axis in group.readers:
        kernel, graph = _kernel(point), point.node.graph
        assert isinstance(graph, ir.Graph)
        shaped = factors.reshape([-1 if i == axis else 1 for i in range(kernel.ndim)])
        old = point.node.inputs[1]
        assert old is not None
        point.node.replace_input_with(1, add_constant(graph, fresh, f"{old.name}_smoothed", kernel * shaped))
    if group.folds is not None:
        for fold in group.folds:
            fold.divide(factors, fresh)
        return group.name
    return _insert(group, factors, fresh)


def _insert(group: SmoothGroup, factors: np.ndarray, fresh: FreshNames) -> str:
    value, graph = group.value, group.value.graph
    assert isinstance(graph, ir.Graph)
    inverse = add_constant(graph, fresh, f"{value.name}_smoothing", np.float32(1) / factors)
    node = ir.node("Mul", [value, inverse], name=fresh(f"{value.name}_smooth"))
    made = node.outputs[0]
    made.name, made.type, made.shape = fresh(f"{value.name}_smoothed"), value.type, value.shape
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, [node])
    for point, _ in group.readers:
        point.node.replace_input_with(0, made)
    return made.name
