"""Capsules that numpy and torch take and give: the layout is theirs, not only ours."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from trtpipe.backends import dlpack
from trtpipe.errors import InputError


class Owner:
    """Something that can be watched going."""


class Handed:
    """An array in host memory, by way of our capsules."""

    def __init__(self, array: np.ndarray, owner: object) -> None:
        self.array, self.owner = array, owner

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        return dlpack.exported(
            self.array.ctypes.data, self.array.shape, self.array.dtype.name, (dlpack.CPU, 0), self.owner
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU, 0


TYPES = ["float32", "float16", "float64", "int8", "int32", "int64", "uint8", "bool"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 3, 4), (5,), (), (0, 3)])
def test_numpy_takes_them(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(24).astype(dtype)[: int(np.prod(shape))].reshape(shape)
    found = np.from_dlpack(Handed(array, array))
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("dtype", TYPES)
def test_torch_takes_and_gives_them(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    array = np.arange(24).astype(dtype).reshape(2, 3, 4)
    tensor = torch.from_dlpack(Handed(array, array))
    np.testing.assert_array_equal(tensor.numpy(), array)
    back = dlpack.imported(_Plain(tensor), 0, "x")
    assert (back.address, back.shape, back.dtype) == (tensor.data_ptr(), (2, 3, 4), dtype)


def test_bfloat16_keeps_its_name() -> None:
    torch = pytest.importorskip("torch")
    assert dlpack.imported(_Plain(torch.zeros(2, dtype=torch.bfloat16)), 0, "x").dtype == "bfloat16"


class _Plain:
    """A tensor whose owner takes the stream, as one on a GPU does."""

    def __init__(self, tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, *, stream):
        return self.tensor.__dlpack__()


def test_memory_lives_as_long_as_anybody_has_it() -> None:
    array, owner = np.arange(6.0), Owner()
    there = weakref.ref(owner)
    capsule = Handed(array, owner).__dlpack__()
    first, second = np.from_dlpack(Handed(array, owner)), np.from_dlpack(Handed(array, owner))
    del owner
    gc.collect()
    assert there() is not None
    del capsule, first
    gc.collect()
    assert there() is not None
    del second
    gc.collect()
    assert there() is None


def test_a_capsule_that_nobody_took_lets_go() -> None:
    owner = Owner()
    there = weakref.ref(owner)
    Handed(np.zeros(2), owner).__dlpack__()
    del owner
    gc.collect()
    assert there() is None


def test_what_is_not_contiguous_is_refused_by_name() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match="input 'x'"):
        dlpack.imported(_Plain(torch.zeros(3, 4).T), 0, "input 'x'")
    assert dlpack.imported(_Plain(torch.zeros(1, 4).T), 0, "x").shape == (4, 1), "an axis of length 1 has no stride"


def test_types_that_dlpack_lacks() -> None:
    with pytest.raises(InputError, match="complex"):
        dlpack.exported(1, (1,), "complex64", (1, 0), None)
