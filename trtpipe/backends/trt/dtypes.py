"""TensorRT's element types in numpy's words."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trtpipe.config.formats import FORMATS
from trtpipe.errors import HostError

if TYPE_CHECKING:
    import numpy as np

#: TensorRT element types -> numpy names.
_NAMES = MappingProxyType({word.upper(): form.storage for form in FORMATS for word in form.engine})
_FORMATS = MappingProxyType({form.storage: form for form in FORMATS})


def dtype_name(dtype: Any) -> str:
    """numpy's name of a TensorRT element type."""
    name = str(dtype.name)
    return _NAMES.get(name, name.lower())


def numpy_dtype(name: str) -> np.dtype:
    """The type of that name; one that numpy itself does not have needs ml_dtypes.

    Raises:
        HostError: it is not installed.
    """
    import numpy as np

    try:
        return np.dtype(name)
    except TypeError:
        form = _FORMATS[name]
    try:
        return form.dtype
    except ImportError as error:
        raise HostError(f"arrays of {name} need the package ml_dtypes", "pip install ml_dtypes") from error
