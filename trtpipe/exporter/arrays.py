"""Tensors as arrays and back, in types that only one of torch and numpy has as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trtpipe.config.formats import HALF_FORMATS
from trtpipe.exporter.loading import torch

if TYPE_CHECKING:
    from trtpipe.config.formats import Format


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """A copy of a tensor as an array of its type; numpy knows bfloat16 through ml_dtypes."""
    tensor = tensor.detach().cpu().contiguous()
    if (form := _own(str(tensor.dtype).removeprefix("torch."))) is None:
        plain: np.ndarray = tensor.numpy().copy()
        return plain
    bits: np.ndarray = tensor.view(torch.int16).numpy().copy()
    return bits.view(form.dtype)


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """A copy of an array as a tensor of its type."""
    if (form := _own(array.dtype.name)) is None:
        return torch.from_numpy(array.copy())
    return torch.from_numpy(np.ascontiguousarray(array).view(np.int16).copy()).view(getattr(torch, form.storage))


def _own(name: str) -> Format | None:
    """The 16-bit format of that name that numpy itself does not have."""
    return next((form for form in HALF_FORMATS if form.storage == name and not form.cpu_kernels), None)
