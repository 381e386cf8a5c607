"""The layers of an engine: their types, the ONNX nodes fused into each, and the bytes they move.

All of it is reported by the builder (not measured).
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import TYPE_CHECKING

from trtpipe.artifact import Record
from trtpipe.config.formats import FORMATS
from trtpipe.config.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

#: TensorRT's element types -> bits; others count as 32.
BITS: dict[str, int] = {
    "Int64": 64,
    "Int32": 32,
    **dict.fromkeys(("Bool", "UInt8", "E8M0"), 8),
    **{word: form.bits for form in FORMATS for word in form.engine},
}
#: Element types as reports for people name them, where not just in capitals.
_SHORT = {word: form.name.upper() for form in FORMATS for word in form.engine}
_UNKNOWN_BITS = 32

#: Substrings of the types of Conv and GEMM layers; a fused attention kernel is known by its name only.
_CONV_GEMM = ("correlation", "conv", "gemm", "runtime_fusion", "matrix")
_ATTENTION = "_gemm_mha"


class EngineTensor(Record):
    """What a layer reads or writes.

    Attributes:
        name: the builder's name.
        type: the builder's name of the element type: ``Float``, ``Half``, ``BFloat16``, ``Int8``, ``FP8``, ...
        dims: shape in this layer, which may be padded or merged; -1 if it depends on the input.
    """

    name: str
    type: str
    dims: tuple[int, ...]

    def bytes(self, free: int) -> int:
        """Size in bytes, with ``free`` for every dimension of -1."""
        return prod(free if dim < 0 else dim for dim in self.dims) * BITS.get(self.type, _UNKNOWN_BITS) // 8


class EngineLayer(Record):
    """One fused layer: on a GPU, one kernel.

    Attributes:
        name: the builder's name.
        kind: the builder's layer type: ``correlation`` (convolution), ``gemm``, ``kgen`` (generated elementwise code),
            ``runtime_fusion`` (a GEMM fused with elementwise code), ``maxpool``, ``shape_call``, ...
        inputs, constants, outputs: activations it reads, weights it reads, activations it writes.
        nodes: names of the ONNX nodes fused into it; a node may be in several layers, or in none if it was folded.
        tactic: the kernel's name; TensorRT-RTX selects kernels on the GPU and reports ``__myelin_CASK_STUB``.
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
        """Whether it reads or writes tensors; other layers only control them."""
        return bool(self.inputs or self.outputs)

    @property
    def is_conv_gemm(self) -> bool:
        """Whether it is a Conv or GEMM layer, or a fused attention."""
        kind = self.kind.lower()
        return self.is_attention or any(part in kind for part in _CONV_GEMM)

    @property
    def is_attention(self) -> bool:
        """Whether it is a fused attention: two GEMMs with a softmax between them."""
        return _ATTENTION in self.name

    @property
    def computes_in(self) -> str:
        """The type of its first input, or of its first output if it has no input."""
        first = next(iter((*self.inputs, *self.outputs)), None)
        return "" if first is None else first.type

    @property
    def types(self) -> frozenset[str]:
        """Every type it reads or writes."""
        return frozenset(tensor.type for tensor in (*self.inputs, *self.constants, *self.outputs))


class EngineReport(Record):
    """What the builder reports of a finished engine.

    Attributes:
        source: the builder's log, or TensorRT's engine inspector.
        layers: in the order of execution, for each optimization profile.
        free: the length that a dimension of -1 counts as: the smallest opt length of the inputs' dynamic dimensions.
            Byte counts are exact for static shapes; with dynamic ones they are too small where the builder merged
            dimensions.
        activation_memory, weight_memory, scratch_memory: bytes, for the max shapes.
        separate: names of QuantizeLinear and DequantizeLinear nodes that became separate kernels.
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
        """The layers that read or write tensors."""
        return tuple(layer for layer in self.layers if layer.is_kernel)

    def multiplying(self, nodes: Collection[str]) -> dict[str, int]:
        """Which kernel does the multiplications of each node: several kernels may name one, its epilogue among them.

        Args:
            nodes: names of ONNX nodes that multiply.

        Returns:
            Node -> number of its first Conv or GEMM kernel, or of its first kernel where none is one. A node that is in
            no kernel is left out.
        """
        found: dict[str, int] = {}
        for wanted in (True, False):
            for number, layer in enumerate(self.kernels):
                if layer.is_conv_gemm is wanted:
                    for name in layer.nodes:
                        if name in nodes:
                            found.setdefault(name, number)
        return found

    @property
    def precisions(self) -> dict[str, int]:
        """Type -> how many kernels compute in it."""
        return dict(sorted(Counter(layer.computes_in for layer in self.kernels).items()))

    @property
    def conv_gemm_types(self) -> dict[str, int]:
        """Type -> how many Conv and GEMM layers compute in it."""
        return dict(sorted(Counter(layer.computes_in for layer in self.kernels if layer.is_conv_gemm).items()))

    @property
    def bytes_written(self) -> int:
        """Bytes of activations that all kernels write."""
        return self._sum(layer.outputs for layer in self.kernels)

    @property
    def bytes_read(self) -> int:
        """Bytes of activations that all kernels read."""
        return self._sum(layer.inputs for layer in self.kernels)

    @property
    def constant_bytes(self) -> int:
        """Bytes of weights that all kernels read."""
        return self._sum(layer.constants for layer in self.kernels)

    @property
    def bytes_moved(self) -> int:
        """Bytes of activations and weights that all kernels read, and of activations that they write."""
        return self.bytes_read + self.bytes_written + self.constant_bytes

    @property
    def summary(self) -> str:
        """One line: kernels, memory of activations and weights, and the types of the Conv and GEMM layers."""
        parts = [f"{len(self.kernels)} kernels"]
        if self.activation_memory is not None:
            parts.append(f"{format_bytes(self.activation_memory)} activations")
        if self.weight_memory is not None:
            parts.append(f"{format_bytes(self.weight_memory)} weights")
        if self.conv_gemm_types:
            counts = ", ".join(
                f"{count} {_SHORT.get(type_, type_.upper())}" for type_, count in self.conv_gemm_types.items()
            )
            parts.append(f"Conv/GEMM layers: {counts}")
        if self.separate:
            parts.append(f"{len(self.separate)} separate Q/DQ")
        return ", ".join(parts)

    def _sum(self, groups: Iterable[Iterable[EngineTensor]]) -> int:
        return sum(tensor.bytes(self.free) for group in groups for tensor in group)
