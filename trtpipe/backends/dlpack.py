"""Arrays that other libraries hand over, or take, without a copy: DLPack's ``dltensor`` capsules.

The layout is that of ``dlpack.h`` before version 1.0 (``DLManagedTensor``), which every library still gives to, and
takes from, those who do not ask for a newer one.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trtpipe.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: DLDeviceType
CPU, CUDA, CUDA_HOST = 1, 2, 3
_NAME = b"dltensor"
#: DLDataTypeCode -> the kind of type that numpy calls by this name, without its bits.
_KINDS: Mapping[int, str] = MappingProxyType({0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"})


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)

_python = ctypes.pythonapi
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)(("PyCapsule_New", _python))
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _python))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _python))
_hold = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("Py_IncRef", _python))
_let_go = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(("Py_DecRef", _python))


@dataclass(frozen=True)
class DeviceTensor:
    """An array in the memory of a GPU that belongs to somebody else.

    Attributes:
        address: of the first element; the elements are contiguous.
        dtype: numpy's name of the type.
        owner: keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    device: int
    owner: object


def device_of(value: Any) -> tuple[int, int] | None:
    """Kind and number of the device that holds an array; ``None`` for what has no ``__dlpack_device__``."""
    if not hasattr(value, "__dlpack_device__"):
        return None
    kind, index = value.__dlpack_device__()
    return int(kind), int(index)


def imported(value: Any, stream: int, where: str) -> DeviceTensor:
    """An array on a GPU as its owner hands it over, once the work that makes it is ordered before ``stream``.

    Args:
        stream: a CUDA stream.
        where: what it is, for errors.

    Raises:
        InputError: it is not contiguous, or of a type that numpy does not know.
    """
    capsule = value.__dlpack__(stream=stream)
    pointer = _pointer(id(capsule), _NAME)
    tensor = ctypes.cast(pointer, ctypes.POINTER(_Managed)).contents.tensor
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    dense = [math.prod(shape[axis + 1 :]) for axis in range(tensor.ndim)]
    strides = [tensor.strides[axis] for axis in range(tensor.ndim)] if tensor.strides else dense
    if any(size > 1 and found != wanted for size, found, wanted in zip(shape, strides, dense, strict=True)):
        raise InputError(f"{where}: not contiguous in GPU memory", "give x.contiguous()")
    kind, form = _KINDS.get(tensor.dtype.code), tensor.dtype
    if kind is None or form.lanes != 1:
        raise InputError(f"{where}: of a type (DLPack code {form.code}) that no input has", "convert it")
    dtype = kind if kind == "bool" else f"{kind}{form.bits}"
    address = (tensor.data or 0) + tensor.byte_offset
    return DeviceTensor(address, shape, dtype, tensor.device.index, capsule)


def exported(address: int, shape: tuple[int, ...], dtype: str, device: tuple[int, int], owner: object) -> object:
    """A capsule that hands over an array; ``owner``, which keeps the memory alive, is let go with it.

    Raises:
        InputError: DLPack has no word for ``dtype``.
    """
    held = _Export(address, shape, dtype, device, owner)
    _hold(held)
    return _new(ctypes.addressof(held.managed), _NAME, _DESTRUCTOR)


class _Export:
    """What a capsule points to, for as long as somebody has it."""

    def __init__(
        self, address: int, shape: tuple[int, ...], dtype: str, device: tuple[int, int], owner: object
    ) -> None:
        kind = dtype.rstrip("0123456789")
        codes = {name: code for code, name in _KINDS.items()}
        if kind not in codes:
            raise InputError(f"DLPack has no type {dtype}", "take the outputs in host memory")
        bits = int(dtype.removeprefix(kind) or 8)
        self._owner = owner
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        self.managed = _Managed(
            tensor=_Tensor(
                data=address,
                device=_Device(*device),
                ndim=len(shape),
                dtype=_Type(codes[kind], bits, 1),
                shape=ctypes.cast(self._shape, ctypes.POINTER(ctypes.c_int64)),
                strides=None,
                byte_offset=0,
            ),
            context=id(self),
            deleter=ctypes.cast(_DELETER, ctypes.c_void_p),
        )


def _delete(managed: Any) -> None:
    """Called by whoever took the array, when it is no longer needed."""
    _let_go(managed.contents.context)


def _destroy(capsule: int) -> None:
    """Called when a capsule goes; one that nobody took still owns its array."""
    if _is_valid(capsule, _NAME):
        _delete(ctypes.cast(_pointer(capsule, _NAME), ctypes.POINTER(_Managed)))


_DELETER = _Deleter(_delete)
_DESTRUCTOR = _Destructor(_destroy)
