"""Operators that torch's ONNX exporter cannot translate in every form, written in those that it can.

Each function below has the signature of its operator, and gives ``NotImplemented`` for the forms that need no help.
Complex products are those of real and imaginary parts: (a + bi)(c + di) = (ac - bd) + (ad + bc)i.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trtpipe.exporter.loading import torch

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
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_complex()


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


_TABLE = MappingProxyType(
    {
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
