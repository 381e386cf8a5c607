"""trtpipe: from a PyTorch model to a verified TensorRT engine, in one command, on any build machine.

The public Python API. Names are loaded when first used, so importing the package costs almost nothing; which there are,
and where they live, is said once, in ``__init__.pyi``.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"


def _homes() -> dict[str, str]:
    """Public name -> module, from the lines ``from <module> import <name> as <name>`` of the stub."""
    with open(__file__.removesuffix("c") + "i", encoding="utf-8") as stub:  # noqa: PTH123  pathlib costs more than all
        lines = [line.split() for line in stub if line.startswith("from ")]
    return {words[3]: words[1] for words in lines}


_HOMES = _homes()
__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'trtpipe' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
