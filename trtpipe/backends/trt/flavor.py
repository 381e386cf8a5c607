"""The two flavors of TensorRT."""

from __future__ import annotations

import importlib
from typing import Any, Literal, TypeAlias

from trtpipe.backends.base import installing
from trtpipe.config.os_errors import cannot_load

Flavor: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]
#: In messages.
TITLES: dict[Flavor, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


def load(flavor: Flavor) -> Any:
    """The module of a flavor.

    Raises:
        HostError: it is not installed, or a library that it needs is not.
    """
    try:
        return importlib.import_module(flavor.replace("-", "_"))
    except (ImportError, OSError) as error:
        raise cannot_load(TITLES[flavor], error, installing(flavor)) from error
