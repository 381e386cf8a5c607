"""Do a tensor's type, dimensions and data agree? Arithmetic in Python's own numbers cannot overflow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trtpipe.preflight.budgets import Budgets, Refused
from trtpipe.preflight.model import External

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtpipe.preflight.model import Tensor

#: TensorProto.DataType -> bits of a value (onnx.proto); text has no size of its own.
_STRING = 8
_BITS = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
}
#: TensorProto.DataType -> (number of the field that may hold its values, fields' values per value of the tensor).
_FLOATS, _INT32S, _STRINGS, _INT64S, _DOUBLES, _UINT64S = 4, 5, 6, 7, 10, 11
_FIELDS = {
    **dict.fromkeys((2, 3, 4, 5, 6, 9, 10, 16, 17, 18, 19, 20, 24), (_INT32S, 1)),
    1: (_FLOATS, 1),
    14: (_FLOATS, 2),
    7: (_INT64S, 1),
    8: (_STRINGS, 1),
    11: (_DOUBLES, 1),
    15: (_DOUBLES, 2),
    **dict.fromkeys((12, 13), (_UINT64S, 1)),
}
#: Every element type there is.
ELEMENT_TYPES = frozenset({*_BITS, _STRING})
_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})


def check_dims(name: str, dims: Sequence[int], budgets: Budgets) -> int:
    """The number of elements; open dimensions (0 and below, in a value's type) count as one.

    Raises:
        Refused: there are more than any machine holds.
    """
    elements = math.prod(dim for dim in dims if dim > 0)
    if elements > budgets.elements:
        raise Refused(f"tensor {name!r} of shape {list(dims)} would hold {elements:.3g} elements", "correct its shape")
    return elements


def check_tensor(tensor: Tensor, budgets: Budgets) -> External | None:
    """Check a tensor; where its values lie if not in the file.

    Raises:
        Refused: it has an unknown type, impossible dimensions, or other values than these call for.
    """
    what = f"tensor {tensor.name!r}"
    if tensor.data_type not in ELEMENT_TYPES:
        raise Refused(f"{what} is of type {tensor.data_type}, which nobody knows")
    dims = [dim - (1 << 64) if dim >> 63 else dim for dim in tensor.dims]
    if any(dim < 0 for dim in dims):
        raise Refused(f"{what} has the shape {dims}", "correct its shape")
    check_dims(tensor.name, dims, budgets)
    if tensor.is_external:
        return _external(tensor, what)
    elements = math.prod(dims)
    given = {number for number, count in tensor.counts.items() if count}
    if ((tensor.raw or 0) and given) or len(given) > 1:
        raise Refused(f"{what} holds its values twice, in fields that may differ")
    if not given:
        _check_raw(tensor, what, elements)
        return None
    field, times = _FIELDS.get(tensor.data_type, (0, 1))
    [number] = given
    if field and (number != field or tensor.counts[number] != elements * times):
        raise Refused(f"{what} of shape {dims} holds {tensor.counts[number]} values, {elements * times} are needed")
    return None


def _check_raw(tensor: Tensor, what: str, elements: int) -> None:
    if tensor.data_type == _STRING:
        if elements or tensor.raw:
            raise Refused(f"{what} lacks its text")
        return
    needed = -(-elements * _BITS[tensor.data_type] // 8)
    if (tensor.raw or 0) != needed:
        raise Refused(f"{what} holds {tensor.raw or 0} bytes of values, {needed} are needed")


def _external(tensor: Tensor, what: str) -> External:
    where = f"external data of {what}"
    keys = [key for key, _ in tensor.entries]
    entries = dict(tensor.entries)
    if len(entries) != len(keys) or not set(keys) <= _KEYS:
        raise Refused(f"{where}: the entries {keys} are not those of the format")
    if tensor.raw or any(tensor.counts.values()):
        raise Refused(f"{where}: it holds values in the model too, which may differ")
    if tensor.data_type == _STRING:
        raise Refused(f"{where}: text cannot lie in another file")
    try:
        offset, length = (_count(entries.get(key, "0")) for key in ("offset", "length"))
    except ValueError as error:
        raise Refused(f"{where}: {error}") from error
    if length < 0:
        raise Refused(f"{where} is {length} bytes long")
    needed = -(-math.prod(tensor.dims) * _BITS[tensor.data_type] // 8)
    return External(tensor.name, entries.get("location", ""), offset, max(length, needed))


def _count(text: str) -> int:
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20):
        raise ValueError(f"{text!r} is no number of bytes")
    return int(text)
