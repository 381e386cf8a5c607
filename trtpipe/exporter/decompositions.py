"""Operators that torch's ONNX exporter cannot translate in every form, written in those that it can.

Each function below has the signature of its operator, and gives ``NotImplemented`` for the forms that need no help.
Complex products are those of real and imaginary parts: (a + bi)(c + di) = (ac - bd) + (ad + bc)i.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trtpipe.exporter.loading import torch
from trtpipe.exporter.places import place_of_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ATEN = torch.ops.aten


def decomposed(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program, without forms of operators that have no translation."""
    if not any(_needs_help(node) for node in program.graph.nodes):
        return program
    return functional(program)


def functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program in operators that write nothing: new values of buffers are outputs of its graph."""
    found: torch.export.ExportedProgram = program.run_decompositions(dict(_TABLE))
    return found


def _needs_help(node: torch.fx.Node) -> bool:
    if node.target not in _TABLE:
        return False
    if node.target is _ATEN.scaled_dot_product_attention.default:
        return len(node.all_input_nodes[0].meta["val"].shape) != 4
    if "batch_norm" in str(node.target):
        return _uses_batch(node)
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_complex()


def batch_notes(program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """Where the program normalizes by the statistics of the batch."""
    traces = [node.meta.get("stack_trace", "") for node in program.graph.nodes if _uses_batch(node)]
    if not traces:
        return ()
    place = place_of_trace(traces[0])
    return (
        f"samples of one batch depend on each other: {len(traces)} x batch normalization by the statistics of the batch"
        f"{f' (first in {place})' if place is not None else ''}",
    )


def _uses_batch(node: torch.fx.Node) -> bool:
    """Whether it normalizes by mean and variance of the batch, not by those of the training."""
    if node.target in (_ATEN.batch_norm.default, _ATEN._native_batch_norm_legit_functional.default):
        return bool(node.args[5])
    return node.target is _ATEN._native_batch_norm_legit.no_stats


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention over other than two leading axes."""
    if query.dim() == 4 or enable_gqa:
        return NotImplemented
    scores = (query @ key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1) @ value


def _zeros_like(
    value: torch.Tensor,
    *,
    dtype: torch.dtype | None = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    memory_format: Any = None,
) -> Any:
    if not value.is_complex() or dtype is not None:
        return NotImplemented
    return torch.view_as_complex(torch.zeros_like(torch.view_as_real(value)))


def _zeros(
    size: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
) -> Any:
    if dtype is None or not dtype.is_complex:
        return NotImplemented
    return torch.view_as_complex(torch.zeros([*size, 2], dtype=dtype.to_real()))


def _slice_scatter(
    value: torch.Tensor,
    source: torch.Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Any:
    if not value.is_complex():
        return NotImplemented
    axis = dim % value.dim()  # the parts are one more axis, behind
    parts = (torch.view_as_real(value), torch.view_as_real(source))
    return torch.view_as_complex(torch.slice_scatter(*parts, axis, start, end, step))


def _copy(value: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> Any:
    if not value.is_complex() or value.dtype != source.dtype:
        return NotImplemented
    return torch.view_as_complex(torch.view_as_real(source).expand(*value.shape, 2))


def _einsum(equation: str, tensors: Sequence[torch.Tensor], *, path: Any = None) -> Any:
    if len(tensors) != 2:
        return NotImplemented
    return _product(lambda a, b: torch.einsum(equation, a, b), *tensors)


def _matmul(a: torch.Tensor, b: torch.Tensor) -> Any:
    return _product(torch.matmul, a, b)


def _product(product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> Any:
    """A product of two tensors, of which at least one is complex, by real ones."""
    if not (a.is_complex() or b.is_complex()):
        return NotImplemented
    if not a.is_complex():
        return torch.complex(product(a, torch.real(b)), product(a, torch.imag(b)))
    if not b.is_complex():
        return torch.complex(product(torch.real(a), b), product(torch.imag(a), b))
    (ar, ai), (br, bi) = ((torch.real(value), torch.imag(value)) for value in (a, b))
    real, imaginary = product(ar, br) - product(ai, bi), product(ar, bi) + product(ai, br)
    return torch.view_as_complex(torch.stack((real, imaginary), -1))


def _batch_norm(
    value: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Any:
    """Batch normalization by statistics of the batch, which engines have no operator for."""
    return _normalized(value, weight, bias, eps)[0] if training else NotImplemented


def _batch_norm_functional(
    value: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """The same as programs write it that were exported and decomposed; new running statistics are not needed."""
    return (*_normalized(value, weight, bias, eps), mean, variance) if training else NotImplemented


def _batch_norm_alone(
    value: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    return _normalized(value, weight, bias, eps)


def _normalized(
    value: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The normalized batch, the mean, and the inverse of the standard deviation."""
    axes = [axis for axis in range(value.dim()) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(value.dim())]
    mean = value.mean(axes, keepdim=True)
    centered = value - mean
    scale = torch.rsqrt((centered * centered).mean(axes, keepdim=True) + eps)
    result = centered * scale
    result = result if weight is None else result * weight.reshape(shape)
    return result if bias is None else result + bias.reshape(shape), mean.flatten(), scale.flatten()


_TABLE = MappingProxyType(
    {
        _ATEN.batch_norm.default: _batch_norm,
        _ATEN._native_batch_norm_legit_functional.default: _batch_norm_functional,
        _ATEN._native_batch_norm_legit.no_stats: _batch_norm_alone,
        _ATEN.scaled_dot_product_attention.default: _attention,
        _ATEN.zeros_like.default: _zeros_like,
        _ATEN.zeros.default: _zeros,
        _ATEN.slice_scatter.default: _slice_scatter,
        _ATEN.copy.default: _copy,
        _ATEN.einsum.default: _einsum,
        _ATEN.matmul.default: _matmul,
        _ATEN.bmm.default: _matmul,
        _ATEN.mm.default: _matmul,
    }
)
