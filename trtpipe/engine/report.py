"""The engine's own word: its fused layers, their types, the ONNX nodes inside each, and the bytes they move.

Filled by the back-ends from what the builder says of the finished engine; nothing here is measured.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import TYPE_CHECKING

from trtpipe.artifact import Record
from trtpipe.config.formats import FORMATS
from trtpipe.config.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

#: TensorRT's element types -> bits; what is not listed counts as 32.
BITS: dict[str, int] = {
    "Int64": 64,
    "Int32": 32,
    **dict.fromkeys(("Bool", "UInt8", "E8M0"), 8),
    **{word: form.bits for form in FORMATS for word in form.engine},
}
_UNKNOWN_BITS = 32

#: Parts of the kinds of layers that multiply matrices; attention's kernel shows only in its name.
_PRODUCTS = ("correlation", "conv", "gemm", "runtime_fusion", "matrix")
_ATTENTION = "_gemm_mha"


class EngineTensor(Record):
    """What a layer reads or writes.

    Attributes:
        name: the builder's name.
        type: ``Float``, ``Half``, ``BFloat16``, ``Int8``, ``FP8``, ... as the builder says it.
        dims: extents as the layer sees them, which may be padded or merged; -1 where it depends on the input.
    """

    name: str
    type: str
    dims: tuple[int, ...]

    def bytes(self, free: int) -> int:
        """Size, with every free dimension ``free`` long."""
        return prod(free if dim < 0 else dim for dim in self.dims) * BITS.get(self.type, _UNKNOWN_BITS) // 8


class EngineLayer(Record):
    """One fused layer: on a GPU, one kernel.

    Attributes:
        name: the builder's name.
        kind: its word for what the layer is: ``correlation`` (convolution), ``gemm``, ``kgen`` (generated elementwise
            code), ``runtime_fusion`` (a product with elementwise code around it), ``maxpool``, ``shape_call``, ...
        inputs, constants, outputs: what it reads, what of that is in the plan, what it writes.
        nodes: names of the ONNX nodes fused into it; a node may be in several layers, or in none when it was folded.
        tactic: the kernel's name; TensorRT-RTX chooses kernels only on the GPU and says ``__myelin_CASK_STUB``.
    """

    name: str
    kind: str
    inputs: tuple[EngineTensor, ...] = ()
    constants: tuple[EngineTensor, ...] = ()
    outputs: tuple[EngineTensor, ...] = ()
    nodes: tuple[str, ...] = ()
    tactic: str = ""

    @property
    def is_kernel(self) -> bool:
        """Whether it touches tensors; layers that do not only steer others."""
        return bool(self.inputs or self.outputs)

    @property
    def is_product(self) -> bool:
        """Whether it convolves or multiplies matrices."""
        kind = self.kind.lower()
        return self.is_attention or any(part in kind for part in _PRODUCTS)

    @property
    def is_attention(self) -> bool:
        """Whether it does all of an attention: two products with a softmax between them."""
        return _ATTENTION in self.name

    @property
    def computes_in(self) -> str:
        """The type of its first input, or of its first output where it has no input."""
        first = next(iter((*self.inputs, *self.outputs)), None)
        return "" if first is None else first.type

    @property
    def types(self) -> frozenset[str]:
        """Every type it touches."""
        return frozenset(tensor.type for tensor in (*self.inputs, *self.constants, *self.outputs))


class EngineReport(Record):
    """What the builder says of a finished engine.

    Attributes:
        source: where it was read: the builder's log, or TensorRT's engine inspector.
        layers: in the order of execution; one list an optimization profile where there are several.
        free: the length that every dimension of -1 counts as: the shortest of the typical lengths of the inputs'
            dynamic dimensions. Byte counts are exact for engines with static shapes; for others they are too small
            where the builder merged dimensions.
        activation_memory, weight_memory, scratch_memory: bytes, as the builder reports them, for the largest shapes.
        separate: names of QuantizeLinear and DequantizeLinear nodes that became kernels of their own.
    """

    source: str
    layers: tuple[EngineLayer, ...]
    free: int = 1
    activation_memory: int | None = None
    weight_memory: int | None = None
    scratch_memory: int | None = None
    separate: tuple[str, ...] = ()

    @property
    def kernels(self) -> tuple[EngineLayer, ...]:
        """The layers that touch tensors."""
        return tuple(layer for layer in self.layers if layer.is_kernel)

    @property
    def precisions(self) -> dict[str, int]:
        """Type -> how many kernels compute in it."""
        return dict(sorted(Counter(layer.computes_in for layer in self.kernels).items()))

    @property
    def products(self) -> dict[str, int]:
        """Type -> how many convolutions and matrix products compute in it."""
        return dict(sorted(Counter(layer.computes_in for layer in self.kernels if layer.is_product).items()))

    @property
    def bytes_written(self) -> int:
        """Activation bytes that all kernels write."""
        return self._sum(layer.outputs for layer in self.kernels)

    @property
    def bytes_read(self) -> int:
        """Activation bytes that all kernels read."""
        return self._sum(layer.inputs for layer in self.kernels)

    @property
    def constant_bytes(self) -> int:
        """Weight bytes that all kernels read."""
        return self._sum(layer.constants for layer in self.kernels)

    @property
    def summary(self) -> str:
        """One line: kernels, bytes of activations and weights, and what the products compute in."""
        parts = [f"{len(self.kernels)} kernels"]
        if self.activation_memory is not None:
            parts.append(f"{format_bytes(self.activation_memory)} activations")
        if self.weight_memory is not None:
            parts.append(f"{format_bytes(self.weight_memory)} weights")
        if self.products:
            parts.append("products in " + ", ".join(f"{word} {count}" for word, count in self.products.items()))
        if self.separate:
            parts.append(f"{len(self.separate)} separate Q/DQ")
        return ", ".join(parts)

    def _sum(self, groups: Iterable[Iterable[EngineTensor]]) -> int:
        return sum(tensor.bytes(self.free) for group in groups for tensor in group)
