"""SmoothQuant: divide the channels of an activation by a factor each, and multiply the weights that read it instead.

``x W = (x / s) (s W)`` with one factor ``s`` per input channel. Activations have one scale for all channels, weights
one per output channel: a channel much larger than the rest costs the activation its resolution, but the weights next
to nothing. With ``a`` and ``w`` the largest magnitudes of the channel in activation and weights and a strength between
0 and 1, ``s = a ** strength / w ** (1 - strength)``, times a constant.
Xiao et al. 2023, "SmoothQuant", arXiv:2211.10438, equations 3 and 4. Between convolutions, depthwise ones for instance,
it is the cross-layer equalization of Nagel et al. 2019, arXiv:1906.04721, section 4.1; a Clip in between, which they
replace by a Relu, stays (see ``SmoothGroup.within_limits``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtpipe.calibration.corrections import unpacked
from trtpipe.passes.constants import add_constant, along, array_of, drop_unused_constants, is_constant, scalar_of
from trtpipe.passes.graph_pass import FreshNames, GraphPass, PassResult, enclosing, owners_of, result_of
from trtpipe.passes.operators import ACTIVATIONS, ARITHMETIC, is_standard
from trtpipe.quantization.plan import bound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtpipe.calibration.corrections import Smoothing
    from trtpipe.quantization.plan import QuantPoint

#: Channels whose largest magnitude is below this share of the tensor's count as so large: a factor divides by it.
_LEAST_SHARE = 1e-5
#: f(c x) = c f(x) for every c above 0; a Clip too, within its limits
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu", "Clip", "Identity"})
#: they pass on the last axis as it is, if its size stays
_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
#: and these for every channel of a map by itself
_OF_MAPS = frozenset({"MaxPool", "GlobalMaxPool"})
#: behind them a channel's largest magnitude above 0 is what it was
_KEEP_MAXIMA = frozenset({"Relu", "Clip", "Identity"}) | _OF_MAPS | _RESHAPES
_NORMALISATIONS = frozenset({"LayerNormalization", "RMSNormalization"})
_REACH = 8


@dataclass(frozen=True)
class Scaling:
    """A constant input of a node that scales channels: of the node's result, or of what it reads.

    Attributes:
        node, index: whose input it is, and which.
        axis: the constant's axis along which the channels lie.
        groups: parts along the first axis, of which every one has channels of its own along ``axis``.
    """

    node: ir.Node
    index: int
    axis: int
    groups: int = 1

    @property
    def array(self) -> np.ndarray:
        """Its content."""
        array = array_of(self.node.inputs[self.index])
        assert array is not None
        return array

    @property
    def channels(self) -> int:
        """How many there are."""
        return int(self.array.shape[self.axis]) * self.groups

    @property
    def maxima(self) -> np.ndarray:
        """float32[channels]: the largest magnitude in each of them."""
        parts = np.moveaxis(self._parts(np.abs(self.array)), self.axis + 1, 1)
        largest: np.ndarray = parts.reshape(self.channels, -1).max(axis=1)
        return largest

    def change(self, operation: np.ufunc, factors: np.ndarray, fresh: FreshNames) -> None:
        """Multiply it by ``factors``, float32[channels], or divide it by them, for this node only."""
        value, graph, array = self.node.inputs[self.index], self.node.graph, self.array
        assert value is not None and isinstance(graph, ir.Graph)  # noqa: PT018
        changed = operation(array, self.spread(factors))
        self.node.replace_input_with(self.index, add_constant(graph, fresh, f"{value.name}_smoothed", changed))

    def spread(self, factors: np.ndarray) -> np.ndarray:
        """``factors``, one a channel, as they meet the elements of the constant: to be broadcast to its shape."""
        array = self.array
        spread = np.moveaxis(factors.reshape(self.groups, -1, *(1,) * (array.ndim - 1)), 1, self.axis + 1)
        if self.groups == 1:
            single: np.ndarray = spread[0]
            return single
        whole: np.ndarray = np.broadcast_to(spread, self._parts(array).shape).reshape(array.shape)
        return whole

    def _parts(self, array: np.ndarray) -> np.ndarray:
        """One axis more, in front, for the groups."""
        return array.reshape(self.groups, -1, *array.shape[1:])


@dataclass(frozen=True)
class Fold:
    """Where factors fold into the graph before an activation.

    Attributes:
        scalings: the constants that, divided by factors, divide the activation by them.
        between: values between these nodes and the activation, which are divided too.
        limit: magnitude at which a Clip between them saturates.
    """

    scalings: tuple[Scaling, ...]
    between: tuple[ir.Value, ...]
    limit: float = np.inf


@dataclass(frozen=True)
class SmoothGroup:
    """An activation whose channels can be smoothed.

    Attributes:
        value: the activation, read in 8 bits.
        axis: its channel axis.
        readers: the weights of the nodes that read it.
        fold: what before it takes the reciprocal factors; ``None`` if a multiplication has to be inserted.
    """

    value: ir.Value
    axis: int
    readers: tuple[Scaling, ...]
    fold: Fold | None

    @property
    def name(self) -> str:
        """The activation's name."""
        return self.value.name or ""

    @property
    def channels(self) -> int:
        """How many there are."""
        return self.readers[0].channels

    def weight_maxima(self) -> np.ndarray:
        """float32[channels]: the largest magnitude of the weights that each channel meets."""
        largest: np.ndarray = np.max([reader.maxima for reader in self.readers], axis=0)
        return largest

    def within_limits(self, factors: np.ndarray, activations: np.ndarray) -> np.ndarray:
        """The factors, such that a Clip before the activation goes on doing what it did, one limit for all channels.

        A channel that the Clip saturates keeps its factor of 1. Others become larger, at most up to the limit, so that
        the Clip leaves them alone, but for values larger than any that were seen, which quantization clips too.

        Args:
            activations: the largest magnitude of every channel.
        """
        limit = np.inf if self.fold is None else self.fold.limit
        if np.isinf(limit):
            return factors
        bounded: np.ndarray = np.clip(factors, np.minimum(activations / limit, 1), 1).astype(np.float32)
        return bounded


def smooth_groups(model: ir.Model, points: Sequence[QuantPoint]) -> tuple[SmoothGroup, ...]:
    """What can be smoothed for free, or for one multiplication, in graph order.

    1. All nodes that read the activation in 8 bits have constant weights, and their channels are distinguishable.
    2. The reciprocal factors fold into constants before it (see ``foldable``), which nothing else feels. Or a
       normalization or a pointwise operator made it: then a multiplication is inserted, which fuses with that operator
       and with the quantization. Not behind a residual Add that is quantized, for it would no longer be then.
    3. It is no tensor of a loop's body, whose channels cannot be observed.
    """
    owners = owners_of(model)
    sums = {point.result for point in points if point.op == "Add"}
    readers: dict[ir.Value, dict[ir.Node, QuantPoint]] = {}
    for point, node in bound(model, points):
        if any(owner.op_type != "If" for owner in enclosing(node, owners)):
            continue
        for value in (node.inputs[index] for index in point.activations):
            assert value is not None
            readers.setdefault(value, {})[node] = point
    found = (_group(value, points, sums) for value, points in readers.items())
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
    """Smooth activations by given factors; in float32 the model computes what it did, up to rounding.

    Args:
        wanted: activation -> how it is smoothed; those that are no such group of ``points`` are ignored.
        points: of the model that the pass is applied to.

    Attributes:
        smoothed: the activations that were smoothed.
    """

    name = "smooth"

    def __init__(self, wanted: Mapping[str, Smoothing], points: Sequence[QuantPoint]) -> None:
        self._wanted = wanted
        self._points = points
        self.smoothed: list[str] = []

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the constants."""
        fresh = FreshNames(model)
        for group in smooth_groups(model, self._points):
            found = self._wanted.get(group.name)
            factors = np.empty(0) if found is None else unpacked(found.factors)
            if found is not None and found.inserted == (group.fold is None) and factors.size == group.channels:
                _smooth(group, factors, fresh)
                self.smoothed.append(group.name)
        drop_unused_constants(model)
        return PassResult(self.name, modified=bool(self.smoothed))


def _group(value: ir.Value, points: dict[ir.Node, QuantPoint], sums: set[str]) -> SmoothGroup | None:
    found = (_reader(node, point) for node, point in points.items())
    readers = tuple(reader for reader in found if reader is not None)
    axes = {1 if reader.node.op_type.startswith("Conv") else -1 for reader in readers}
    lengths = {reader.channels for reader in readers}
    if len(readers) < len(points) or len(axes) != 1 or len(lengths) != 1:
        return None
    axis = axes.pop()
    if {use.node for use in value.uses()} == set(points) and not value.is_graph_output():
        fold = foldable(value, axis, lengths.pop())
        if fold is not None:
            return SmoothGroup(value, axis, readers, fold)
    free = pointwise(value) and not _of_sum(value, sums)
    inserted = free and all(node.graph is value.graph for node in points)
    return SmoothGroup(value, axis, readers, None) if inserted else None


def _reader(node: ir.Node, point: QuantPoint) -> Scaling | None:
    """The weight of a node, by its input channels; ``None`` where these are ambiguous, or it has none (pooling)."""
    kernel = array_of(node.inputs[1]) if point.weight == 1 else None
    if kernel is None:
        return None
    if node.op_type == "Conv":
        return Scaling(node, 1, 1, node.attributes.get_int("group", 1))
    if node.op_type == "ConvTranspose":
        return Scaling(node, 1, 0)
    if node.op_type == "Gemm":
        if node.attributes.get_int("transA", 0) != 0:
            return None
        return Scaling(node, 1, 1 if node.attributes.get_int("transB", 0) != 0 else 0)
    return Scaling(node, 1, 0) if kernel.ndim == 2 else None


def _bounded(maxima: np.ndarray) -> np.ndarray:
    """float64, with next to nothing raised to a share of the largest; all 1 where all are 0."""
    maxima = np.asarray(maxima, np.float64)
    largest = maxima.max(initial=0.0)
    return np.maximum(maxima, _LEAST_SHARE * largest) if largest else np.ones_like(maxima)


def _smooth(group: SmoothGroup, factors: np.ndarray, fresh: FreshNames) -> None:
    for reader in group.readers:
        reader.change(np.multiply, factors, fresh)
    for scaling in group.fold.scalings if group.fold is not None else ():
        scaling.change(np.divide, factors, fresh)
    if group.fold is not None:
        return
    value, graph, producer = group.value, group.value.graph, group.value.producer()
    assert isinstance(graph, ir.Graph) and producer is not None  # noqa: PT018
    rank = 1 if group.axis == -1 else group.readers[0].array.ndim - 1
    inverse = add_constant(graph, fresh, f"{value.name}_smoothing", along(np.float32(1) / factors, 0, rank))
    label, smoothed = fresh(f"{value.name}_smooth"), fresh(f"{value.name}_smoothed")
    made = ir.val(smoothed, shape=value.shape, type=value.type)
    graph.insert_after(producer, [ir.node("Mul", [value, inverse], outputs=[made], name=label)])
    for reader in group.readers:
        reader.node.replace_input_with(0, made)


def foldable(value: ir.Value, axis: int, channels: int) -> Fold | None:
    """The constants that, divided by factors, divide ``value`` by them; ``None`` if there are none.

    They are the weight and bias of the convolution, product or normalization that makes it, behind any activations f
    with f(c x) = c f(x); nothing else may read what lies between.

    Args:
        axis: the channel axis of ``value``: 1, or -1 for the last.
        channels: its length.
    """
    found: list[Scaling] = []
    between: list[ir.Value] = []
    passed: set[str] = set()
    limit = np.inf
    for _ in range(_REACH):
        node = value.producer()
        if node is None or not is_standard(node):
            return None
        if node.op_type in _HOMOGENEOUS or (node.op_type in _OF_MAPS if axis == 1 else _keeps_last(node)):
            source = node.inputs[0]
            if node.op_type == "Clip":
                limit = min(limit, _limit(node) if _KEEP_MAXIMA.issuperset(passed) else 0.0)
            if limit <= 0:
                return None
            passed.add(node.op_type)
        elif node.op_type == "Add" and (index := _bias_index(node, axis, channels)) is not None:
            constant = node.inputs[index]
            assert constant is not None and constant.shape is not None  # noqa: PT018
            sizes = list(constant.shape)
            found.append(Scaling(node, index, sizes.index(channels) if axis == 1 else len(sizes) - 1))
            passed.add(node.op_type)
            source = node.inputs[1 - index]
        else:
            ends = _ends(node, axis, channels)
            return None if ends is None else Fold((*found, *ends), tuple(between), limit)
        if source is None or len(source.uses()) != 1 or source.is_graph_output() or source.graph is not node.graph:
            return None
        value = source
        between.append(value)
    return None


def _limit(clip: ir.Node) -> float:
    """The magnitude up to which a Clip passes values on, or else makes them 0; not above 0 where there is none."""
    bounds = []
    for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):  # attributes before opset 11
        value = clip.inputs[index] if len(clip.inputs) > index else None
        bounds.append(clip.attributes.get_float(name, default) if value is None else scalar_of(value))
    low, high = bounds
    if low is None or high is None or low > 0:
        return 0.0
    return min(high, -low or np.inf)


def pointwise(value: ir.Value) -> bool:
    """Whether a normalization or a pointwise operator makes ``value``, perhaps reshaped: one more factor fuses."""
    for _ in range(_REACH):
        node = value.producer()
        if node is None or not is_standard(node):
            return False
        if node.op_type in _NORMALISATIONS | ACTIVATIONS | ARITHMETIC:
            return True
        source = node.inputs[0] if _keeps_last(node) else None
        if source is None:
            return False
        value = source
    return False


def _of_sum(value: ir.Value, sums: set[str]) -> bool:
    """Whether ``value`` is one of these sums, or an activation of it."""
    node = value.producer()
    while node is not None and node.op_type in ACTIVATIONS and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and result_of(node) in sums


def _keeps_last(node: ir.Node) -> bool:
    if node.op_type not in _RESHAPES or node.inputs[0] is None:
        return False
    before, after = (value.shape for value in (node.inputs[0], node.outputs[0]))
    if not before or not after or not isinstance(before[-1], int):
        return False
    return before[-1] == after[-1]


def _bias_index(node: ir.Node, axis: int, channels: int) -> int | None:
    """Which operand of an Add is one constant number per channel."""
    for index, value in enumerate(node.inputs):
        if value is None or not is_constant(value) or value.shape is None:
            continue
        sizes = [int(size) for size in value.shape if isinstance(size, int)]
        if int(np.prod(sizes)) != channels:
            continue
        if axis == -1 and sizes[-1] == channels:
            return index
        rank = len(node.outputs[0].shape) if node.outputs[0].shape is not None else 0
        if axis == 1 and rank > 1 and len(sizes) in (rank, rank - 1) and sizes[1 - rank] == channels:
            return index
    return None


def _ends(node: ir.Node, axis: int, channels: int) -> tuple[Scaling, ...] | None:
    """The scaling constants of the node that makes the activation."""
    if (node.op_type in _NORMALISATIONS and axis == -1) or (node.op_type == "Conv" and axis == 1):
        weights, channel_axis = [1, 2], 0
    elif node.op_type == "Gemm" and axis == -1:
        weights, channel_axis = [1, 2], 0 if node.attributes.get_int("transB", 0) != 0 else 1
    elif node.op_type == "MatMul" and axis == -1:
        weights, channel_axis = [1], 1
    else:
        return None
    scalings: list[Scaling] = []
    for index in weights:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            continue
        array = array_of(value)
        if array is None or array.dtype != np.float32:
            return None
        place = channel_axis if index == 1 else array.ndim - 1
        if array.ndim <= place or place < 0 or array.shape[place] != channels:
            return None
        scalings.append(Scaling(node, index, place))
    return tuple(scalings) if scalings else None
